"""onnxruntime, which executes the float model during calibration and checks the quantised one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto

from pipeline.errors import InputError, ModelError, OctetError

Feed = Mapping[str, np.ndarray]
"""One batch: array by input name."""


class Session:
    """A model in onnxruntime. One thread, so that the same sums come out on every run, whatever the machine has."""

    def __init__(self, model: ModelProto, outputs: Sequence[str] | None = None) -> None:
        """``outputs``: names of what :meth:`run` gives; all outputs of the model by default.

        Raises OctetError where onnxruntime is missing, ModelError where it refuses the model.
        """
        onnxruntime = _import()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.use_deterministic_compute = True
        # The arena never gives memory back, and would keep what the largest batch needed.
        options.enable_cpu_mem_arena = False
        try:
            self._session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime has a type for each of its status codes
            raise ModelError(f"onnxruntime cannot load the model: {_one_line(error)}") from error
        self.outputs = list(outputs) if outputs is not None else [o.name for o in self._session.get_outputs()]

    def run(self, feed: Feed) -> list[np.ndarray]:
        """The outputs for one batch, in the order of :attr:`outputs`. Raises InputError where onnxruntime fails."""
        try:
            return self._session.run(self.outputs, dict(feed))
        except Exception as error:
            shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in feed.items())
            raise InputError(f"onnxruntime cannot run the model on {shapes}: {_one_line(error)}") from error


def _import() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise OctetError("quantising needs onnxruntime, to run the float model: pip install onnxruntime") from error
    return onnxruntime


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
