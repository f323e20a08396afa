"""The inference engines that are compared, each behind the same steps: prepare, load, run.

To add one, write a class like those in this package and list it here; it runs in a process of its own (see
worker.py), so it may import and configure what it likes.
"""

from __future__ import annotations

from experiments.engines.base import Engine, Runner
from experiments.engines.ncnn import NcnnInt8
from experiments.engines.octet import Octet
from experiments.engines.onnxruntime import OnnxRuntimeFp32, OnnxRuntimeInt8
from experiments.engines.openvino import OpenVinoFp32, OpenVinoInt8
from experiments.engines.pytorch import PyTorchFp32, PyTorchInt8

__all__ = ["ENGINES", "Engine", "Runner"]

ENGINES: dict[str, type[Engine]] = {
    engine.name: engine
    for engine in (
        Octet,
        OpenVinoInt8,
        OnnxRuntimeInt8,
        PyTorchInt8,
        NcnnInt8,
        OpenVinoFp32,
        OnnxRuntimeFp32,
        PyTorchFp32,
    )
}
"""By the name that --engines takes: Octet, its INT8 peers, the FP32 ones."""
