"""What is tuned: convolutions as the search sees them, with how often the networks run them.

Zero points and scales change the values that a kernel computes with, not the work that it does. Problems that differ in
nothing else are one task, whatever network they come from.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import tvm

from pipeline.passes.emit_kernels import Configure
from pipeline.passes.lowering import IRDump, kernel_phases, run_phases
from pipeline.targets import DeployTarget
from schedules.compute.arithmetic import Output
from schedules.compute.conv2d import Conv2d
from schedules.compute.stages import Add, Lookup, Multiply, Requantize, Stage, stages_from_json, stages_to_json
from schedules.convolution import default_configuration
from schedules.intrinsics.x86 import DotProduct
from schedules.template import Configuration

X_ZERO_POINT, STAGE_ZERO_POINT = 128, 7
"""Canonical zero points: of the input, and odd ones within the stages, so that nothing folds away."""

COEFFICIENT, OTHER_COEFFICIENT, ADD_MULTIPLIER = 611, 371, 0.001
"""Canonical coefficients of an addition; odd, so that no multiplication becomes a shift."""

PRODUCT_MULTIPLIER, REQUANTIZE_MULTIPLIER = 0.0123, 0.83


@dataclass(frozen=True)
class Task:
    """A canonical problem, and its calls in one run of all networks together."""

    problem: Conv2d
    weight: int

    @property
    def key(self) -> str:
        """See :func:`task_key`."""
        return task_key(self.problem)


def canonical(problem: Conv2d) -> Conv2d:
    """``problem`` with the values that do not change its work replaced by fixed ones."""
    return replace(
        problem,
        x_zero_point=X_ZERO_POINT,
        output=Output(problem.output.dtype),
        stages=tuple(_canonical_stage(stage) for stage in problem.stages),
        below_one=True,
    )


def _canonical_stage(stage: Stage) -> Stage:
    output = Output(stage.output.dtype)
    if isinstance(stage, Add):
        zeros = STAGE_ZERO_POINT, STAGE_ZERO_POINT
        return Add(COEFFICIENT, OTHER_COEFFICIENT, ADD_MULTIPLIER, *zeros, output)
    if isinstance(stage, Multiply):
        return Multiply(PRODUCT_MULTIPLIER, STAGE_ZERO_POINT, STAGE_ZERO_POINT, output)
    if isinstance(stage, Requantize):
        return Requantize(REQUANTIZE_MULTIPLIER, STAGE_ZERO_POINT, output)
    return Lookup()


def task_key(problem: Conv2d) -> str:
    """The task that ``problem`` belongs to, as one line of text: equal for all problems of equal work."""
    _, _, bottom, right = problem.padding
    stages = "".join(f"+{type(stage).__name__.lower()}:{stage.output.dtype}" for stage in problem.stages)
    sums = "+windowsum" if problem.window_sum else ""
    return (
        f"{problem.name}pb{bottom}pr{right} x{problem.x_channels} {problem.weight_dtype}:{problem.output.dtype}"
        f"{sums}{stages}"
    )


def problem_to_json(problem: Conv2d) -> str:
    """``problem`` as text, for a worker."""
    fields = asdict(replace(problem, stages=()))
    return json.dumps({**fields, "stages": stages_to_json(problem.stages)})


def problem_from_json(text: str) -> Conv2d:
    """What :func:`problem_to_json` wrote."""
    fields: dict[str, Any] = json.loads(text)
    for name in ("kernel", "strides", "padding", "dilation"):
        fields[name] = tuple(fields[name])
    fields["output"] = Output(**fields["output"])
    fields["stages"] = stages_from_json(fields["stages"])
    return Conv2d(**fields)


def configuration_to_json(configuration: Configuration) -> list[Any]:
    """A configuration as a JSON value."""
    return [configuration.template, [list(knob) for knob in configuration.knobs]]


def configuration_from_json(value: list[Any]) -> Configuration:
    """What :func:`configuration_to_json` wrote."""
    template, knobs = value
    return Configuration(str(template), tuple((str(name), int(number)) for name, number in knobs))


def tasks_of(module: tvm.IRModule, target: DeployTarget) -> list[Task]:
    """The tasks of a network of integer operators, in the order of their first call.

    The network is lowered for ``target`` as a compile does it, and every choice of a schedule noted on the way.
    """
    seen: list[Conv2d] = []

    def note(problem: Conv2d, dot: DotProduct) -> Configuration:
        seen.append(problem)
        return default_configuration(problem, dot)

    configure: Configure = note
    run_phases(module, kernel_phases(target, configure), IRDump(None))
    return merged(Task(canonical(problem), 1) for problem in seen)


def merged(tasks: Iterable[Task]) -> list[Task]:
    """Equal tasks as one, their weights added; in the order of the first of each."""
    weights: Counter[Conv2d] = Counter()
    for task in tasks:
        weights[task.problem] += task.weight
    return [Task(problem, weight) for problem, weight in weights.items()]
