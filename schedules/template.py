"""What a schedule template of the convolution offers to the compiler and to the schedule search."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import tvm

from .compute.conv2d import Conv2d
from .intrinsics.x86 import DotProduct

Knobs = Mapping[str, int]
"""The free choices of a template, by name."""


@dataclass(frozen=True)
class Configuration:
    """A template and its knobs, sorted by name: all that a kernel needs besides its problem."""

    template: str
    knobs: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        return " ".join([self.template, *(f"{name}={value}" for name, value in self.knobs)])


class Template(ABC):
    """A way to compute a convolution on x86. Every configuration of every template gives the same bits."""

    name: ClassVar[str]

    @abstractmethod
    def supports(self, problem: Conv2d, dot: DotProduct) -> bool:
        """Whether the template computes ``problem`` with the instructions of ``dot``."""

    @abstractmethod
    def space(self, problem: Conv2d, dot: DotProduct) -> dict[str, tuple[int, ...]]:
        """The values that each knob may take; not all combinations need be valid, see :meth:`admits`."""

    def admits(self, problem: Conv2d, dot: DotProduct, knobs: Knobs) -> bool:
        """Whether this combination of values from the :meth:`space` is valid."""
        return True

    @abstractmethod
    def default(self, problem: Conv2d, dot: DotProduct) -> Knobs:
        """The knobs that the template's own cost estimate prefers; a point of the :meth:`space`."""

    @abstractmethod
    def build(self, problem: Conv2d, dot: DotProduct, knobs: Knobs) -> tvm.tirx.PrimFunc:
        """The scheduled kernel. Arguments: x, the constants, the stages' operands, result."""

    @abstractmethod
    def constants(
        self, problem: Conv2d, dot: DotProduct, knobs: Knobs, arrays: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """(weight, bias, multiplier[, weight zero points]) of the model, packed as the kernel reads them."""
