"""The quantisation tests of ONNX's own suite, through the compiler and the runtime.

A ratchet: what fails is listed with the reason, and an entry that no longer fails fails this test (strict xfail), so
that the lists only get shorter.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.backend.test.case import node
from onnx.backend.test.case.test_case import TestCase

import pipeline
from pipeline.errors import UnsupportedOperatorError
from pipeline.runtime import load
from tests.octet_runner import Array

OPERATORS = (
    "convinteger",
    "dequantizelinear",
    "dynamicquantizelinear",
    "matmulinteger",
    "qlinearconv",
    "qlinearmatmul",
    "quantizelinear",
)
NAMES = ("quantize", "qlinear", "integer")
COUNT = 45

FLOAT8 = "float8 is no integer type"
FLOAT4 = "float4 is no integer type"
NARROW = "types of 4 and 2 bits pack several numbers a byte, which no kernel reads"
HALF = "float16 scales keep the product in float16, where it is one step off; with float32 ones it would be exact"
BLOCKED = "one scale for each block of a channel: no integer kernel has a multiplier inside its sum"

KNOWN_FAILURES = {
    "test_dequantizelinear_blocked": BLOCKED,
    "test_dequantizelinear_e4m3fn": FLOAT8,
    "test_dequantizelinear_e4m3fn_float16": FLOAT8,
    "test_dequantizelinear_e4m3fn_zero_point": FLOAT8,
    "test_dequantizelinear_e5m2": FLOAT8,
    "test_dequantizelinear_float4e2m1": FLOAT4,
    "test_dequantizelinear_int2": NARROW,
    "test_dequantizelinear_int4": NARROW,
    "test_dequantizelinear_uint2": NARROW,
    "test_dequantizelinear_uint4": NARROW,
    "test_qlinearmatmul_2D_uint8_float16": HALF,
    "test_qlinearmatmul_3D_uint8_float16": HALF,
    "test_quantizelinear_blocked_asymmetric": BLOCKED,
    "test_quantizelinear_blocked_symmetric": BLOCKED,
    "test_quantizelinear_e4m3fn": FLOAT8,
    "test_quantizelinear_e5m2": FLOAT8,
    "test_quantizelinear_float4e2m1": FLOAT4,
    "test_quantizelinear_int2": NARROW,
    "test_quantizelinear_int4": NARROW,
    "test_quantizelinear_uint2": NARROW,
    "test_quantizelinear_uint4": NARROW,
}


def _cases() -> list[TestCase]:
    for operator in OPERATORS:  # collect_testcases() would make the data of all 1,900 tests
        importlib.import_module(f"onnx.backend.test.case.node.{operator}")
    found = {c.name: c for c in node._NodeTestCases if any(part in c.name for part in NAMES)}
    return [found[name] for name in sorted(found)]


CASES = _cases()
EXPECTED_ERRORS = (UnsupportedOperatorError, AssertionError)


def _parameters(cases: list[TestCase]) -> list[Any]:
    return [
        pytest.param(
            case,
            id=case.name,
            marks=[pytest.mark.xfail(strict=True, raises=EXPECTED_ERRORS, reason=KNOWN_FAILURES[case.name])]
            if case.name in KNOWN_FAILURES
            else [],
        )
        for case in cases
    ]


def test_the_suite_is_complete() -> None:
    """A test that an upgrade of onnx adds or renames would be left out in silence."""
    names = {case.name for case in CASES}
    assert len(names) == COUNT
    assert set(KNOWN_FAILURES) <= names


def _array(value: Any) -> Array:
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def _data(case: TestCase) -> tuple[onnx.ModelProto, list[Array], list[Array]]:
    """The model, its inputs and its expected outputs."""
    assert case.model is not None
    assert case.data_sets is not None
    ((inputs, outputs),) = case.data_sets
    return case.model, [_array(x) for x in inputs], [_array(y) for y in outputs]


def _check(case: TestCase, constants: bool, folder: Path) -> None:
    model, inputs, outputs = _data(case)
    if constants:
        bound = onnx.ModelProto()
        bound.CopyFrom(model)
        for info, value in list(zip(model.graph.input, inputs, strict=True))[1:]:
            bound.graph.initializer.append(numpy_helper.from_array(value, info.name))
        del bound.graph.input[1:]
        model = bound
    path = folder / "model.onnx"
    onnx.save(model, path)
    loaded = load(pipeline.compile(path, output=folder / "model.so"), threads=1)
    result = loaded({info.name: x for info, x in zip(model.graph.input, inputs, strict=False)})
    results = list(result.values()) if isinstance(result, dict) else [result]
    for actual, expected in zip(results, outputs, strict=True):
        assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
        if np.issubdtype(expected.dtype, np.integer):
            np.testing.assert_array_equal(actual, expected)
        else:
            np.testing.assert_allclose(actual, expected, rtol=case.rtol, atol=case.atol)


@pytest.mark.parametrize("case", _parameters(CASES))
def test_as_the_suite_has_it(case: TestCase, tmp_path: Path) -> None:
    """Scales, zero points and weights are inputs here, known at run time only."""
    _check(case, constants=False, folder=tmp_path)


@pytest.mark.parametrize("case", _parameters([c for c in CASES if len(_data(c)[1]) > 1]))
def test_with_constant_parameters(case: TestCase, tmp_path: Path) -> None:
    """All inputs but the first are constants, as an exporter writes them: what integer kernels are made from."""
    _check(case, constants=True, folder=tmp_path)
