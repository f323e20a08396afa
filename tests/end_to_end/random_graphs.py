"""Random quantised graphs: units of DequantizeLinear → float operators → QuantizeLinear, and their literal meaning.

A unit's float operators are written down once, as a function of a model under construction. The whole graph is made
of them, and so is the model of one unit alone that says what onnxruntime makes of given codes; it runs the file as
written, float operator by float operator.

Each unit is drawn from its kind and a seed: a failing graph is printed as a short list, and shrinks by leaving units
out. A unit that does not fit the tensors at hand becomes one that does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from tests.octet_runner import Array
from tests.pipeline.passes.integer import qdq

Floats = Callable[[qdq.Model, Sequence[str]], str]
"""Adds float operators behind the float tensors it is given, and returns the name of the result."""


LARGEST = 1e30
"""Units with values beyond are left out: what they add up to may be infinite."""


@dataclass(frozen=True)
class Quantization:
    """Scale, zero point and dtype of a tensor."""

    scale: float
    zero_point: int
    dtype: str

    def dequantize(self, model: qdq.Model, codes: str) -> str:
        return model.dequantize(codes, self.scale, self.zero_point, self.dtype)

    def quantize(self, model: qdq.Model, values: str) -> str:
        return model.quantize(values, self.scale, self.zero_point, self.dtype)


@dataclass(frozen=True)
class Unit:
    """One step of a graph: it reads tensors by their number (inputs first) and makes the next one."""

    kind: str
    operands: tuple[int, ...]
    floats: Floats
    output: Quantization

    def meaning(self, quantizations: Sequence[Quantization], codes: Sequence[Array]) -> Array:
        """The codes that onnxruntime gives for the codes of the operands."""
        model = qdq.Model()
        names = [
            q.dequantize(model, model.input(x.shape, str(x.dtype))) for q, x in zip(quantizations, codes, strict=True)
        ]
        model.output(self.output.quantize(model, self.floats(model, names)), self.output.dtype)
        return qdq.onnxruntime_outputs(model.build(), codes, as_written=True)[0]


@dataclass
class Graph:
    """Tensors (quantisation and codes) in order: one input, then the result of each unit."""

    random: np.random.Generator
    quantizations: list[Quantization] = field(default_factory=list)
    codes: list[Array] = field(default_factory=list)
    units: list[Unit] = field(default_factory=list)

    def model(self, *, every_result: bool) -> qdq.Model:
        """The ONNX model with the codes of each unit as outputs, or of the last one alone."""
        model = qdq.Model()
        names = [model.input(self.codes[0].shape, self.quantizations[0].dtype)]
        for number, unit in enumerate(self.units):
            operands = [self.quantizations[i].dequantize(model, names[i]) for i in unit.operands]
            names.append(unit.output.quantize(model, unit.floats(model, operands)))
            if every_result or number == len(self.units) - 1:
                model.output(names[-1], unit.output.dtype)
        return model

    def append(
        self, kind: str, operands: Sequence[int], floats: Floats, *, same: bool = False, at_least: float = 0.0
    ) -> None:
        """Add a unit, its output's range fitted to its values.

        Args:
            same: it may keep the quantisation of its first operand.
            at_least: lower bound of the output's scale.
        """
        quantizations, codes = [self.quantizations[i] for i in operands], [self.codes[i] for i in operands]
        values = self._values(floats, quantizations, codes)
        if not np.abs(values).max() < LARGEST:
            self.append("rescale", operands[:1], lambda _m, x: x[0])
            return
        if same and self.random.random() < 0.6:
            output = quantizations[0]
        else:
            output = quantization(self.random, float(values.min()), float(values.max()), at_least)
        unit = Unit(kind, tuple(operands), floats, output)
        self.units.append(unit)
        self.quantizations.append(output)
        self.codes.append(unit.meaning(quantizations, codes))

    def _values(self, floats: Floats, quantizations: Sequence[Quantization], codes: Sequence[Array]) -> Array:
        model = qdq.Model()
        names = [
            q.dequantize(model, model.input(x.shape, str(x.dtype))) for q, x in zip(quantizations, codes, strict=True)
        ]
        model.output(floats(model, names), "float32")
        return qdq.onnxruntime_outputs(model.build(), codes, as_written=True)[0]


def quantization(random: np.random.Generator, low: float, high: float, at_least: float = 0.0) -> Quantization:
    """One for values from ``low`` to ``high``: fitting, too narrow or too wide; any zero point."""
    low, high = min(low, 0.0), max(high, 0.0)
    dtype = str(random.choice(["uint8", "int8"]))
    limits = np.iinfo(dtype)
    fit = max(high - low, 1e-3) / 255 * random.choice([1.0, 0.3, 2.7], p=[0.8, 0.1, 0.1])
    scale = np.float32(max(fit, at_least))
    fitting = round(limits.min - low / float(scale))
    middle = (limits.min + limits.max + 1) // 2
    zero_point = random.choice([fitting, limits.min, limits.max, middle], p=[0.85, 0.05, 0.05, 0.05])
    return Quantization(float(scale), int(np.clip(zero_point, limits.min, limits.max)), dtype)


def input_graph(seed: int, shape: Sequence[int]) -> Graph:
    """A graph without units, its input random codes, or in one of four cases extreme ones."""
    random = np.random.default_rng(seed)
    start = quantization(random, -3.0, 5.0)
    codes = qdq.codes(shape, start.dtype, int(random.integers(2**31)))
    if random.random() < 0.25:
        limits = np.iinfo(start.dtype)
        codes = random.choice(np.array([limits.min, limits.max, 0, 1, 127], start.dtype), tuple(shape))
    return Graph(random, [start], [codes])


def grow(graph: Graph, kind: str, seed: int) -> None:
    """Append a unit of ``kind`` behind the last tensor of ``graph``; one that does not fit becomes "rescale"."""
    from tests.end_to_end.random_units import KINDS

    graph.random = np.random.default_rng(seed)
    if not KINDS[kind](graph):
        KINDS["rescale"](graph)
