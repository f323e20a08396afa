"""The quantiser: an FP32 ONNX model in, a QDQ model out.

:func:`quantize` is the whole of it, also known as ``pipeline.quantize``. It needs onnxruntime, which runs the float
model during calibration, and not the compiler.
"""

from __future__ import annotations

from pipeline.quantization.api import quantize
from pipeline.quantization.observers import OBSERVERS, Observer
from pipeline.quantization.parameters import QuantizationParameters, parameters_for_range
from pipeline.quantization.table_from_model import table_of_model
from pipeline.quantization.tables import CalibrationTable

__all__ = [
    "OBSERVERS",
    "CalibrationTable",
    "Observer",
    "QuantizationParameters",
    "parameters_for_range",
    "quantize",
    "table_of_model",
]
