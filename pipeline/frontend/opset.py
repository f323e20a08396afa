"""Bring a model to an operator set that the rest of the front end knows."""

from __future__ import annotations

import onnx
import onnx.version_converter
from onnx import ModelProto

from pipeline.errors import ModelError

OLDEST = 7
"""Before it, BatchNormalization, Dropout and broadcasting had meanings that the converter does not always get right."""
WORKING = 13
"""Axes of QuantizeLinear and axes-as-inputs exist from here on: older models are converted up to it."""


def upgrade_opset(model: ModelProto) -> ModelProto:
    """``model`` with its standard operators at opset 13 or later. Raises :class:`ModelError` out of range."""
    versions = {("" if o.domain == "ai.onnx" else o.domain): o.version for o in model.opset_import}
    version = versions.get("", 0)
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST <= version <= newest:
        raise ModelError(
            f"the model uses opset {version}; Octet reads {OLDEST} to {newest}. Export it again with opset 17."
        )
    if version >= WORKING:
        return model
    try:
        return onnx.version_converter.convert_version(model, WORKING)
    except (RuntimeError, ValueError, onnx.version_converter.ConvertError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            f"opset {version} cannot be converted to {WORKING}: {reason}. Export the model again with opset 17."
        ) from error
