"""Checks what a caller gives to a model against what the model takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError
from pipeline.runtime.manifest import TensorInfo


def by_position(values: Sequence[Any], inputs: Sequence[TensorInfo]) -> list[Any]:
    """One value an input, in order, from positional values or a single dict by name.

    Raises:
        InputError: names or number do not fit.
    """
    if len(values) == 1 and isinstance(values[0], Mapping):
        named = values[0]
        missing = [info.name for info in inputs if info.name not in named]
        unknown = [str(name) for name in named if name not in {info.name for info in inputs}]
        if missing or unknown:
            problems = [f"missing {', '.join(missing)}"] if missing else []
            problems += [f"unknown {', '.join(unknown)}"] if unknown else []
            raise InputError(f"input names: {'; '.join(problems)}. The model takes {_listed(inputs)}")
        return [named[info.name] for info in inputs]
    if len(values) != len(inputs):
        raise InputError(f"{len(values)} inputs given, {len(inputs)} needed. The model takes {_listed(inputs)}")
    return list(values)


def checked(value: Any, info: TensorInfo) -> npt.NDArray[Any]:
    """``value`` as an array of exactly the shape and dtype of ``info``; no data is copied or converted.

    Raises:
        InputError: it is no array in host memory, or its shape or dtype differ.
    """
    array = value if isinstance(value, np.ndarray) else _from_dlpack(value, info)
    if array.dtype != np.dtype(info.dtype):
        raise InputError(
            f"input {info.name!r} has dtype {array.dtype}, {info.dtype} needed; {_conversion(array, info)}"
        )
    if array.shape != info.shape:
        hint = ""
        if array.shape == info.shape[1:] and info.shape[:1] == (1,):
            hint = "; add the batch dimension with x[None]"
        elif array.ndim == len(info.shape) and array.shape[1:] == info.shape[1:]:
            hint = f"; the batch is fixed: give {info.shape[0]}, or compile with --batch {array.shape[0]}"
        raise InputError(f"input {info.name!r} has shape {array.shape}, {info.shape} needed{hint}")
    return array


def _from_dlpack(value: Any, info: TensorInfo) -> npt.NDArray[Any]:
    if not hasattr(value, "__dlpack__"):
        raise InputError(
            f"input {info.name!r} is a {type(value).__name__}; "
            f"give a numpy array (np.asarray(x, {info.dtype!r})) or an object with __dlpack__, such as a torch tensor"
        )
    try:
        return np.from_dlpack(value)
    except Exception as error:  # each library has its own exceptions for "on a GPU", "needs gradients" …
        raise InputError(
            f"input {info.name!r}: this {type(value).__name__} cannot be read in place ({error}); "
            "move it to the CPU and detach it first"
        ) from error


def _conversion(array: npt.NDArray[Any], info: TensorInfo) -> str:
    if info.quantization and array.dtype.kind == "f":
        quantization = info.quantization
        return (
            f"quantise it first: round(x / {quantization.scale:g}) + {quantization.zero_point}, clipped to {info.dtype}"
        )
    return f"nothing is converted silently, use x.astype({info.dtype!r}) if that keeps the values you mean"


def _listed(inputs: Sequence[TensorInfo]) -> str:
    return "; ".join(map(str, inputs)) or "none"
