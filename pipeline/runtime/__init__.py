"""Runs compiled libraries. Needs numpy and tvm_ffi, and TVM's runtime library, but not the compiler.

    from pipeline.runtime import load
    model = load("resnet50.so", threads=4)
    logits = model(image)

Loading a library is running a program: load only files you trust.
"""

from __future__ import annotations

from pipeline.runtime.library import read_manifest
from pipeline.runtime.manifest import Kernel, Manifest, Quantization, Signature, TensorInfo
from pipeline.runtime.model import Model, load
from pipeline.runtime.timing import Timing

__all__ = ["Kernel", "Manifest", "Model", "Quantization", "Signature", "TensorInfo", "Timing", "load", "read_manifest"]
