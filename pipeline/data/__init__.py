"""Data for calibration, accuracy and running: images and arrays, prepared as a model wants them.

from pipeline.data import describe_model, load_data
model = describe_model("model.onnx")
data = load_data("images/", model.inputs, {"resize": 256}, samples=100)
for inputs in data: ...                      # {"input": float32[1, 3, 224, 224]}, any number of times
"""

from __future__ import annotations

from pipeline.data.dataset import Batch, Dataset, load_data
from pipeline.data.inputs import InputSpec
from pipeline.data.metadata import (
    ModelDescription,
    describe_model,
    library_preprocessing,
    store_preprocessing,
    stored_preprocessing,
)
from pipeline.data.preprocessing import METADATA_KEY, Preprocessing, preprocessing_for

__all__ = [
    "METADATA_KEY",
    "Batch",
    "Dataset",
    "InputSpec",
    "ModelDescription",
    "Preprocessing",
    "describe_model",
    "library_preprocessing",
    "load_data",
    "preprocessing_for",
    "store_preprocessing",
    "stored_preprocessing",
]
