"""The search space of a task: the templates that support it, and the values of their knobs.

To MetaSchedule the workload is the operator itself, one opaque block; a template is a design space, each of its knobs
a ``sample_categorical`` whose value becomes an annotation of the block. The trace is thus the record, and
:func:`configuration_of` reads it back; :func:`schedules.convolution.build` makes the kernel.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from typing import Any

import tvm
from tvm.ir.utils import derived_object
from tvm.s_tir import Schedule
from tvm.s_tir import meta_schedule as ms
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as builder

from pipeline.tuning.records import KNOB, TASK, TEMPLATE
from pipeline.tuning.task import task_key
from schedules import convolution
from schedules.compute.conv2d import Conv2d
from schedules.intrinsics.x86 import DotProduct
from schedules.template import Configuration, Template

BLOCK = "operator"
ENUMERABLE = 20_000
"""Spaces of up to so many combinations are listed as a whole."""


def workload(problem: Conv2d) -> tvm.IRModule:
    """The operator before any schedule: one opaque block that says which task it is."""
    with IRBuilder() as ib:
        with builder.prim_func(s_tir=True):
            builder.func_name("main")
            builder.func_attr({TASK: task_key(problem)})
            with builder.sblock(BLOCK):
                builder.reads([])
                builder.writes([])
                builder.evaluate(0)
        function = ib.get()
    return tvm.IRModule({"main": function.with_attr("global_symbol", "main")})


class Space:
    """All configurations of one problem."""

    def __init__(self, problem: Conv2d, dot: DotProduct) -> None:
        self.problem, self.dot = problem, dot
        self.templates: list[Template] = convolution.supporting_templates(problem, dot)
        self._values = {t.name: dict(sorted(t.space(problem, dot).items())) for t in self.templates}

    @property
    def combinations(self) -> int:
        """Upper bound of the number of configurations: those that a template does not admit are counted."""
        return sum(math.prod(map(len, values.values())) for values in self._values.values())

    def admits(self, configuration: Configuration) -> bool:
        """Whether it is a point of the space."""
        return convolution.is_valid(self.problem, self.dot, configuration)

    def configurations(self, generator: random.Random) -> list[Configuration]:
        """All of them in random order; where there are more than :data:`ENUMERABLE` combinations, some of them."""
        points = list(self._all() if self.combinations <= ENUMERABLE else self._some(generator))
        generator.shuffle(points)
        return points

    def _all(self) -> Iterator[Configuration]:
        for template in self.templates:
            values = self._values[template.name]
            for point in itertools.product(*values.values()):
                knobs = dict(zip(values, point, strict=True))
                if template.admits(self.problem, self.dot, knobs):
                    yield convolution.configuration(template, knobs)

    def _some(self, generator: random.Random) -> Iterator[Configuration]:
        seen: set[Configuration] = set()
        for _ in range(ENUMERABLE):
            template = generator.choice(self.templates)
            knobs = {name: generator.choice(values) for name, values in self._values[template.name].items()}
            point = convolution.configuration(template, knobs)
            if point not in seen and template.admits(self.problem, self.dot, knobs):
                seen.add(point)
                yield point

    def design_spaces(self, schedule: Schedule) -> list[Schedule]:
        """One schedule a template, every knob drawn at random: what MetaSchedule calls a design space."""
        return [self._sampled(schedule.copy(), template.name, {}) for template in self.templates]

    def schedule(self, configuration: Configuration) -> Schedule:
        """The workload with the decisions of ``configuration`` in its trace."""
        return self._sampled(Schedule(workload(self.problem)), configuration.template, dict(configuration.knobs))

    def _sampled(self, schedule: Schedule, template: str, knobs: dict[str, int]) -> Schedule:
        block = schedule.get_sblock(BLOCK)
        schedule.annotate(block, TASK, task_key(self.problem))
        schedule.annotate(block, TEMPLATE, template)
        for name, values in self._values[template].items():
            decision = values.index(knobs[name]) if name in knobs else None
            drawn = schedule.sample_categorical(list(values), [1 / len(values)] * len(values), decision)
            schedule.annotate(block, KNOB + name, drawn)
        return schedule


def configuration_of(schedule: Schedule) -> Configuration:
    """Template and knobs from the annotations."""
    annotations = dict(schedule.get(schedule.get_sblock(BLOCK)).annotations)
    knobs = {name.removeprefix(KNOB): int(v) for name, v in annotations.items() if name.startswith(KNOB)}
    return Configuration(str(annotations[TEMPLATE]), tuple(sorted(knobs.items())))


@derived_object
class Admitted(ms.postproc.PyPostproc):
    """Rejects combinations that are no point of the space."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        self._space = space

    def _initialize_with_tune_context(self, context: Any) -> None:
        """Nothing to prepare."""

    def apply(self, schedule: Schedule) -> bool:
        """Whether the schedule may be measured."""
        return self._space.admits(configuration_of(schedule))

    def clone(self) -> Any:
        """For MetaSchedule's threads."""
        return Admitted(self._space)


@derived_object
class DrawKnob(ms.mutator.PyMutator):
    """Draws one knob anew; MetaSchedule's own mutators know tile sizes and the like only."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = random.Random(seed)

    def _initialize_with_tune_context(self, context: Any) -> None:
        """Nothing to prepare."""

    def apply(self, trace: Any, _: Any) -> Any:
        """The changed trace; None where there is no knob."""
        draws = [inst for inst in trace.insts if inst.kind.name == "SampleCategorical"]
        if not draws:
            return None
        inst = self._random.choice(draws)
        return trace.with_decision(inst, self._random.randrange(len(inst.attrs[0])), True)

    def clone(self) -> Any:
        """For MetaSchedule's threads; with its own course of random numbers."""
        return DrawKnob(self._random.randrange(2**31))
