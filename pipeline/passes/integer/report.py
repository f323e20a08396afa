"""What became of each operator of a model, and why."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import tvm
from tvm import relax

from pipeline.ir import operators
from pipeline.ir.graph import Graph, dtype_of, op_name, operands, static_shape
from pipeline.passes.integer.quantization import DEQUANTIZE, QUANTIZE

INTEGER = "integer"
FLOAT = "float"

_OCTET = "octet."


@dataclass(frozen=True)
class OperatorReport:
    """One operator of the model.

    Attributes:
        name: the variable that holds its result.
        op_type: its name in Relax, without the dialect: ``nn.conv2d``, ``add``, ...
        kind: ``integer`` or ``float``.
        reason: how it is computed, or why it is not in integers.
        shape: of the result.
    """

    name: str
    op_type: str
    kind: str
    reason: str
    shape: tuple[int, ...]


@dataclass
class Report:
    """Collects, while the passes run, what :func:`summarise` turns into one line an operator."""

    entries: list[OperatorReport] = field(default_factory=list)
    integer: dict[str, tuple[str, str]] = field(default_factory=dict)
    parts: set[str] = field(default_factory=set)
    refusals: dict[str, str] = field(default_factory=dict)
    inventory: list[tuple[str, str, tuple[int, ...]]] = field(default_factory=list)

    def lowered(self, name: str, op_type: str, how: str) -> None:
        """The operator ``name`` has become integer arithmetic."""
        self.integer[name] = (op_type.removeprefix("relax."), how)
        self.parts.discard(name)

    def absorbed(self, name: str) -> None:
        """The binding ``name`` is a part of another operator, which has a line of its own."""
        if name not in self.integer:
            self.parts.add(name)

    def refused(self, name: str, reason: str) -> None:
        """Why ``name`` stays float; the first reason counts."""
        self.refusals.setdefault(name, reason)


def _is_listed(name: str) -> bool:
    return name.startswith("relax.") and name not in (QUANTIZE, DEQUANTIZE)


def _is_float(expr: relax.Expr) -> bool:
    return "float" in dtype_of(expr)


def _variables(value: relax.Expr) -> list[relax.Var]:
    return [x for x in operands(value) if isinstance(x, relax.Var)]


def take_inventory(module: tvm.IRModule, report: Report) -> None:
    """Note the operators of the model, in order, that work on activations."""
    graph = Graph(module)
    constants: set[relax.Var] = set()
    for var, value in graph.bindings:
        name = op_name(value)
        if name and all(x in constants for x in _variables(value)):
            constants.add(var)
        elif _is_listed(name):
            report.inventory.append((var.name, name.removeprefix("relax."), static_shape(value) or ()))


def summarise(module: tvm.IRModule, report: Report, known: Collection[str]) -> None:
    """Fill ``report.entries`` once ``module`` is lowered; ``known`` are the operators that have an integer form."""
    graph = Graph(module)
    final: dict[str, relax.Expr] = {}
    for var, value in graph.bindings:
        if not isinstance(value, relax.Var):
            final.setdefault(var.name, value)
    for name, op_type, shape in report.inventory:
        if name in report.integer:
            kind, how = report.integer[name]
            report.entries.append(OperatorReport(name, kind, INTEGER, how, shape))
        elif name in report.parts or name not in final:
            continue
        elif op_name(final[name]).startswith(_OCTET) or dtype_of(final[name]) == "uint8":
            report.entries.append(OperatorReport(name, op_type, INTEGER, "acts on the codes", shape))
        elif any(dtype_of(x) == "uint8" for x in operands(final[name])):
            report.entries.append(OperatorReport(name, op_type, INTEGER, "reads the codes", shape))
        elif not any(_is_float(x) for x in (final[name], *operands(final[name]))):
            report.entries.append(OperatorReport(name, op_type, INTEGER, "works on indices or shapes", shape))
        else:
            reason = report.refusals.get(name) or _reason(graph, final[name], known)
            report.entries.append(OperatorReport(name, op_type, FLOAT, reason, shape))


def _reason(graph: Graph, value: relax.Expr, known: Collection[str]) -> str:
    """Why an operator that no rule has refused stayed float."""
    if op_name(value) not in known:
        return f"no integer form for {op_name(value).removeprefix('relax.')}"
    for position, operand in enumerate(operands(value)):
        source = graph.definition.get(operand) if isinstance(operand, relax.Var) else None
        if isinstance(operand, relax.Var) and op_name(source) != operators.DEQUANTIZE:
            return f"input {position} is not quantised"
    return "its result is not quantised"
