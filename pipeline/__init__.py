"""Octet: compiles a quantised ONNX network into one INT8 shared library for one hardware target.

``pipeline.quantize`` makes such a network of a float one and needs onnxruntime; ``pipeline.compile`` and
``pipeline.inspect`` need the compiler (Apache TVM), and so do ``pipeline.profile``, which measures what the machine
can do with code of its own, and ``pipeline.tune``, which searches the schedules and needs XGBoost besides. All are
imported when first used.
``pipeline.load`` (the same as :func:`pipeline.runtime.load`) needs numpy and tvm_ffi alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.compiler import compile, inspect
    from pipeline.profiling import profile
    from pipeline.quantization import quantize
    from pipeline.runtime import load
    from pipeline.tuning.api import tune

__version__ = "0.1.0"
__all__ = ["__version__", "compile", "inspect", "load", "profile", "quantize", "tune"]

_HOMES = {
    "compile": "pipeline.compiler",
    "inspect": "pipeline.compiler",
    "load": "pipeline.runtime",
    "profile": "pipeline.profiling",
    "quantize": "pipeline.quantization",
    "tune": "pipeline.tuning.api",
}


def __getattr__(name: str) -> Any:
    """Import the public function ``name`` on first use, so that a deployed program never loads the compiler."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
