"""A model file as a function, whoever runs it: onnxruntime for ONNX, Octet's runtime for a library."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.data import ModelDescription, describe_model
from pipeline.data.metadata import is_library
from pipeline.errors import InputError, ModelError, OctetError
from pipeline.runtime import load

if TYPE_CHECKING:
    from onnx import ModelProto

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]
Function = Callable[[Arrays], dict[str, Array]]


@dataclass(frozen=True)
class Network:
    """A model that runs: arrays by input name to arrays by output name, for exactly ``batch`` samples if set."""

    path: Path
    engine: str
    description: ModelDescription
    outputs: tuple[str, ...]
    _function: Function

    @property
    def batch(self) -> int | None:
        """The batch that the file is made for, or None for any."""
        return self.description.inputs[0].batch if self.description.inputs else None

    def __call__(self, inputs: Arrays) -> dict[str, Array]:
        """The outputs for some samples. Where fewer than :attr:`batch` are given, the last one fills it up.

        Raises:
            InputError: names, shapes or dtypes do not fit, or more samples are given than the batch holds.
        """
        return run_batch(self._function, inputs, self.batch)


def run_batch(function: Function, inputs: Arrays, batch: int | None) -> dict[str, Array]:
    """The outputs of ``function``, which takes exactly ``batch`` samples if set, for as many samples or fewer."""
    if batch is None:
        return function(inputs)
    count = len(next(iter(inputs.values())))
    outputs = function(filled_up(inputs, batch))
    return {name: y[:count] if y.ndim and len(y) == batch else y for name, y in outputs.items()}


def filled_up(inputs: Arrays, batch: int) -> Arrays:
    """``inputs`` with the last sample repeated where there are fewer than ``batch``."""
    missing = batch - len(next(iter(inputs.values())))
    if missing <= 0:
        return inputs
    return {name: np.concatenate([x, np.repeat(x[-1:], missing, axis=0)]) for name, x in inputs.items()}


def open_network(path: str | os.PathLike[str], threads: int | None = None) -> Network:
    """The model at ``path``, ready to be called. ``threads``: of a call; by default what the engine takes.

    Loading a library runs its code: use it on files you trust.

    Raises:
        ModelError, LibraryError: the file is damaged, or its engine refuses it.
        OctetError: onnxruntime is needed and not installed.
    """
    path = Path(path)
    description = describe_model(path)
    if not is_library(path):
        outputs, function = onnxruntime_function(str(path), threads)
        return Network(path, "onnxruntime", description, outputs, function)
    model = load(path, threads)
    names = tuple(info.name for info in model.outputs)

    def call(inputs: Arrays) -> dict[str, Array]:
        result = model(dict(inputs))
        return result if isinstance(result, dict) else {names[0]: result}

    return Network(path, "octet", description, names, call)


def onnxruntime_function(
    model: str | ModelProto, threads: int | None = None, outputs: Sequence[str] | None = None
) -> tuple[tuple[str, ...], Function]:
    """The names of the outputs of ``model``, a path or what was read from one, and what computes them.

    Raises:
        ModelError: onnxruntime refuses the model.
        OctetError: onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise OctetError("running an ONNX file needs onnxruntime: pip install onnxruntime") from None
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.inter_op_num_threads = 1
    if threads is not None:
        settings.intra_op_num_threads = threads
    source = model if isinstance(model, str) else model.SerializeToString()
    try:
        session = onnxruntime.InferenceSession(source, settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a type for each of its status codes
        raise ModelError(f"onnxruntime cannot load the model: {_one_line(error)}") from error
    names = tuple(outputs) if outputs is not None else tuple(output.name for output in session.get_outputs())

    def call(inputs: Arrays) -> dict[str, Array]:
        try:
            return dict(zip(names, session.run(list(names), dict(inputs)), strict=True))
        except Exception as error:
            shapes = ", ".join(f"{name} {value.dtype}{list(value.shape)}" for name, value in inputs.items())
            raise InputError(f"onnxruntime cannot run the model on {shapes}: {_one_line(error)}") from error

    return names, call


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
