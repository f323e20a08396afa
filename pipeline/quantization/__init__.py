"""The quantiser: an FP32 ONNX model in, a QDQ model out.

:func:`quantize`, also known as ``pipeline.quantize``, does it all; :func:`sensitivity` says which layers cost how much,
and :func:`mixed_precision` keeps the fewest of them in float that a budget asks for. They need onnxruntime, which runs
the float model during calibration, and not the compiler.
"""

from __future__ import annotations

from pipeline.quantization.api import quantize
from pipeline.quantization.mixed_precision import MixedPrecision, mixed_precision
from pipeline.quantization.observers import OBSERVERS, Observer
from pipeline.quantization.parameters import QuantizationParameters, parameters_for_range
from pipeline.quantization.sensitivity import LayerCost, sensitivity
from pipeline.quantization.table_from_model import table_of_model
from pipeline.quantization.tables import CalibrationTable

__all__ = [
    "OBSERVERS",
    "CalibrationTable",
    "LayerCost",
    "MixedPrecision",
    "Observer",
    "QuantizationParameters",
    "mixed_precision",
    "parameters_for_range",
    "quantize",
    "sensitivity",
    "table_of_model",
]
