"""What a QDQ file says of how Octet made it, in its metadata."""

from __future__ import annotations

import json
from typing import Any

from onnx import ModelProto

METADATA_KEY = "octet.quantize"


def quantized_with(model: ModelProto) -> dict[str, Any]:
    """The options of :func:`pipeline.quantize` that made ``model``; empty for files of other tools, or damaged ones."""
    for entry in model.metadata_props:
        if entry.key == METADATA_KEY:
            try:
                options = json.loads(entry.value)
            except ValueError:
                return {}
            return options if isinstance(options, dict) else {}
    return {}
