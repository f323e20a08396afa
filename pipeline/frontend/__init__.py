"""From an ONNX file to Relax: load and check, normalise to QDQ, import.

Loading works without TVM; only :func:`import_model` imports it.
"""

from __future__ import annotations

from pipeline.frontend.importer import ImportedModel, TensorSpec, import_model
from pipeline.frontend.limits import Limits
from pipeline.frontend.loader import load_model

__all__ = ["ImportedModel", "Limits", "TensorSpec", "import_model", "load_model"]
