"""Element-wise operators as stages of a chain, alone in a kernel or in the epilogue of a convolution.

A stage maps one uint8 element, and the matching element of its own operands, to the next element.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

from tvm import tirx
from tvm.ir import Expr

from .arithmetic import Output, finish, float32, int32


@dataclass(frozen=True)
class Add:
    """Integer addition of a second activation: ``(x - zx) * cx + (other - zo) * co``, requantised."""

    coefficient: int
    other_coefficient: int
    multiplier: float
    zero_point: int
    other_zero_point: int
    output: Output
    operand: ClassVar[str] = "activation"

    def apply(self, value: Expr, other: Callable[[Expr | None], Expr]) -> Expr:
        """The next element."""
        left = (int32(value) - self.zero_point) * self.coefficient
        right = (int32(other(None)) - self.other_zero_point) * self.other_coefficient
        return finish(left + right, float32(self.multiplier), self.output)


@dataclass(frozen=True)
class Multiply:
    """Integer product with a second activation: ``(x - zx) * (other - zo)``, requantised."""

    multiplier: float
    zero_point: int
    other_zero_point: int
    output: Output
    operand: ClassVar[str] = "activation"

    def apply(self, value: Expr, other: Callable[[Expr | None], Expr]) -> Expr:
        """The next element."""
        product = (int32(value) - self.zero_point) * (int32(other(None)) - self.other_zero_point)
        return finish(product, float32(self.multiplier), self.output)


@dataclass(frozen=True)
class Requantize:
    """Change of scale and zero point."""

    multiplier: float
    zero_point: int
    output: Output
    operand: ClassVar[str] = "none"

    def apply(self, value: Expr, _other: Callable[[Expr | None], Expr]) -> Expr:
        """The next element."""
        return finish(int32(value) - self.zero_point, float32(self.multiplier), self.output)


@dataclass(frozen=True)
class Lookup:
    """A table of 256 results, indexed by the element."""

    operand: ClassVar[str] = "table"

    @property
    def output(self) -> Output:
        """The whole uint8 range."""
        return Output()

    def apply(self, value: Expr, table: Callable[[Expr | None], Expr]) -> Expr:
        """The next element."""
        return table(tirx.Cast("int32", value))


Stage = Add | Multiply | Requantize | Lookup


_KINDS: dict[str, type[Stage]] = {kind.__name__: kind for kind in (Add, Multiply, Requantize, Lookup)}


def stages_to_json(stages: Sequence[Stage]) -> str:
    """The stages as text, for an operator's attribute."""
    return json.dumps([{"kind": type(stage).__name__, **asdict(stage)} for stage in stages])


def stages_from_json(text: str) -> tuple[Stage, ...]:
    """What :func:`stages_to_json` wrote."""
    stages = []
    for fields in json.loads(text):
        kind = _KINDS[fields.pop("kind")]
        if "output" in fields:
            fields["output"] = Output(**fields["output"])
        stages.append(kind(**fields))
    return tuple(stages)


def operand_count(stages: Sequence[Stage]) -> int:
    """Number of tensors that the stages read besides the chain's own value."""
    return sum(stage.operand != "none" for stage in stages)


def _no_operand(_index: Expr | None) -> Expr:
    raise TypeError("this stage has no operand")


def apply_stages(stages: Sequence[Stage], value: Expr, operands: Sequence[Callable[[Expr | None], Expr]]) -> Expr:
    """Run ``value`` through all stages. ``operands[i](None)`` reads at the element, ``operands[i](index)`` a table."""
    pending = iter(operands)
    for stage in stages:
        value = stage.apply(value, _no_operand if stage.operand == "none" else next(pending))
    return value
