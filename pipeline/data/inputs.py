"""What a model takes, be it an ONNX file with open dimensions or a compiled library."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError
from pipeline.runtime.manifest import Quantization, TensorInfo

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class InputSpec:
    """One input: name, shape (None where the model leaves a dimension open), numpy dtype name, and its quantisation."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    quantization: Quantization | None = None

    @classmethod
    def of(cls, info: TensorInfo) -> InputSpec:
        """The input of a compiled library."""
        return cls(info.name, info.shape, info.dtype, info.quantization)

    def __str__(self) -> str:
        text = f"{self.name}: {self.dtype}[{', '.join('?' if side is None else str(side) for side in self.shape)}]"
        if self.quantization:
            text += f", scale {self.quantization.scale:g}, zero point {self.quantization.zero_point}"
        return text

    @property
    def batch(self) -> int | None:
        """The fixed first dimension, or None."""
        return self.shape[0] if self.shape else None

    def fits(self, shape: Iterable[int]) -> bool:
        """Whether ``shape``, that of one sample without the batch, is what the model takes."""
        shape = tuple(shape)
        wanted = self.shape[1:]
        return len(shape) == len(wanted) and all(want in (None, side) for want, side in zip(wanted, shape, strict=True))

    def stored(self, values: Array) -> Array:
        """Real ``values`` in the dtype of the input, quantised if it is."""
        dtype = np.dtype(self.dtype)
        if dtype.kind in "iu":
            if self.quantization:
                values = values / np.float32(self.quantization.scale) + self.quantization.zero_point
            limits = np.iinfo(dtype)
            values = np.clip(np.rint(values), limits.min, limits.max)
        return values.astype(dtype, order="C")

    def converted(self, values: Array, where: str) -> Array:
        """``values`` of one sample, ready made for the network, in the dtype of the input if nothing much is lost.

        Raises:
            InputError: shape or dtype do not fit; ``where`` says whose they are.
        """
        if not self.fits(values.shape):
            raise InputError(f"{where} has shape {values.shape} a sample; input {self} needs {self.shape[1:]}")
        if values.dtype == self.dtype:
            return np.asarray(values, order="C")  # np.ascontiguousarray makes a number an array of one
        both_float = values.dtype.kind == "f" and np.dtype(self.dtype).kind == "f"
        if not both_float and not np.can_cast(values.dtype, self.dtype, "safe"):
            raise InputError(f"{where} has dtype {values.dtype}, and input {self} cannot take that without loss")
        return values.astype(self.dtype, order="C")
