"""The inference engines that are compared, each behind the same three steps: prepare, load, run.

An engine that is not installed says why instead of failing. To add one, write a class like those below and list it
in ENGINES; it runs in a process of its own (see worker.py), so it may import and configure what it likes.
"""

from __future__ import annotations

import contextlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Runner = Callable[[np.ndarray], Any]


class Engine(ABC):
    """One engine at one precision."""

    name: str
    kind: str
    """Which of the zoo's files it takes: "fp32" or "qdq"."""
    distribution: str
    """The installed distribution whose version goes into the results."""

    @classmethod
    @abstractmethod
    def unavailable(cls) -> str | None:
        """Why this engine cannot run here, or None."""

    @classmethod
    def prepare(cls, model: Path, output: Path, batch: int, target: str) -> Path:  # noqa: ARG003
        """What ``load`` takes: the ONNX file ``model``, unless the engine compiles it ahead into folder ``output``."""
        return model

    @abstractmethod
    def load(self, artefact: Path, threads: int) -> Runner:
        """A function that runs one batch from its float32 NCHW array."""


class _OnnxRuntime(Engine):
    distribution = "onnxruntime"

    @classmethod
    def unavailable(cls) -> str | None:
        return _missing("onnxruntime")

    def load(self, artefact: Path, threads: int) -> Runner:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        session = onnxruntime.InferenceSession(artefact, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda x: session.run(None, {name: x})


class OnnxRuntimeInt8(_OnnxRuntime):
    name = "onnxruntime-int8"
    kind = "qdq"


class OnnxRuntimeFp32(_OnnxRuntime):
    name = "onnxruntime-fp32"
    kind = "fp32"


class OpenVinoInt8(Engine):
    name = "openvino-int8"
    kind = "qdq"
    distribution = "openvino"

    @classmethod
    def unavailable(cls) -> str | None:
        return _missing("openvino")

    def load(self, artefact: Path, threads: int) -> Runner:
        import openvino

        core = openvino.Core()
        # The f32 hint keeps what is not quantised out of bf16, which would be another network than the others run.
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        compiled: dict[tuple[int, ...], Any] = {}

        def run(x: np.ndarray) -> Any:
            if x.shape not in compiled:  # static shapes are faster, and the first input tells them
                model = core.read_model(artefact)
                model.reshape(list(x.shape))
                compiled[x.shape] = core.compile_model(model, "CPU", settings).create_infer_request()
            return compiled[x.shape].infer([x], share_inputs=True, share_outputs=True)

        return run


class Octet(Engine):
    name = "octet"
    kind = "qdq"
    distribution = "octet"

    @classmethod
    def unavailable(cls) -> str | None:
        return _missing("pipeline")

    @classmethod
    def prepare(cls, model: Path, output: Path, batch: int, target: str) -> Path:
        import pipeline

        output.mkdir(parents=True, exist_ok=True)
        return pipeline.compile(model, target=target, output=output / f"{model.stem}-b{batch}-{target}.so", batch=batch)

    def load(self, artefact: Path, threads: int) -> Runner:
        from pipeline.runtime import load

        return load(artefact, threads=threads)


ENGINES: dict[str, type[Engine]] = {
    engine.name: engine for engine in (Octet, OnnxRuntimeInt8, OnnxRuntimeFp32, OpenVinoInt8)
}


def _missing(module: str) -> str | None:
    found = None
    with contextlib.suppress(ImportError):
        found = importlib.util.find_spec(module)
    return None if found else f"the Python package {module!r} is not installed"
