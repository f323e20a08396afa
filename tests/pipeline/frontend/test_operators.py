"""Operators whose settings or element types cannot be compiled: refused by name, before TVM sees them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from pipeline.errors import UnsupportedOperatorError
from pipeline.frontend import import_model
from tests.pipeline.frontend.models import build, load, node


@pytest.mark.parametrize("setting", ["detect_negative", "detect_positive"])
def test_is_inf_of_one_sign(tmp_path, setting):
    """The importer reads neither attribute."""
    one_sign: dict[str, Any] = {setting: 0}
    nodes = [node("IsInf", "x", "y", name="check", **one_sign)]
    model = build(nodes, {"x": (TensorProto.FLOAT, [4])}, {"y": (TensorProto.BOOL, [4])})
    with pytest.raises(UnsupportedOperatorError, match=f"'check' \\(IsInf.*one sign alone.*{setting}=0"):
        load(model, tmp_path)


@pytest.mark.parametrize(
    ("operator", "inputs", "dtype"),
    [
        ("Acos", "x", TensorProto.FLOAT16),
        ("Equal", "x x", TensorProto.BOOL),
        ("LayerNormalization", "x factors", TensorProto.DOUBLE),
        ("Pow", "x x", TensorProto.INT32),
        ("ReduceMean", "x", TensorProto.INT32),
        ("Sign", "x", TensorProto.UINT8),
        ("TopK", "x two", TensorProto.INT16),
    ],
)
def test_element_types_without_a_kernel(tmp_path, operator, inputs, dtype):
    """ReduceMean gave int64, TopK failed when it ran; the others failed in code generation, which knows no node."""
    nodes = [node(operator, inputs, "y places" if operator == "TopK" else "y", name="bad")]
    constants = {"two": np.array([2]), "factors": np.ones(4)}
    model = build(nodes, {"x": (dtype, [4])}, {"y": (dtype, ["N"])}, constants)
    loaded = load(model, tmp_path)
    name = TensorProto.DataType.Name(dtype).lower()
    with pytest.raises(UnsupportedOperatorError, match=rf"'bad' \({operator}\): inputs of type {name}"):
        import_model(loaded)
