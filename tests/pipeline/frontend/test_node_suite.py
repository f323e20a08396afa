"""The quantisation node tests of the ONNX project: load, import, and the expected answer from TVM's float arithmetic.

:data:`REFUSED` is a ratchet: it may only shrink.
"""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numpy as np
import pytest
import tvm
from onnx.backend.test.case import node as suite
from tvm import relax

from pipeline.errors import UnsupportedOperatorError
from pipeline.frontend import import_model
from tests.pipeline.frontend.models import load

WORDS = ("quantize", "qlinear", "integer")

_FLOAT8 = "float8 is no integer type"
_SMALL = "fewer than 8 bits"
_BLOCKED = "blocked quantisation"
REFUSED = {
    "test_dequantizelinear_blocked": _BLOCKED,
    "test_dequantizelinear_e4m3fn": _FLOAT8,
    "test_dequantizelinear_e4m3fn_float16": _FLOAT8,
    "test_dequantizelinear_e4m3fn_zero_point": _FLOAT8,
    "test_dequantizelinear_e5m2": _FLOAT8,
    "test_dequantizelinear_float4e2m1": _SMALL,
    "test_dequantizelinear_int2": _SMALL,
    "test_dequantizelinear_int4": _SMALL,
    "test_dequantizelinear_uint2": _SMALL,
    "test_dequantizelinear_uint4": _SMALL,
    "test_quantizelinear_blocked_asymmetric": _BLOCKED,
    "test_quantizelinear_blocked_symmetric": _BLOCKED,
    "test_quantizelinear_e4m3fn": _FLOAT8,
    "test_quantizelinear_e5m2": _FLOAT8,
    "test_quantizelinear_float4e2m1": _SMALL,
    "test_quantizelinear_int2": _SMALL,
    "test_quantizelinear_int4": _SMALL,
    "test_quantizelinear_uint2": _SMALL,
    "test_quantizelinear_uint4": _SMALL,
}


# Importing such a module registers its cases; all of the suite at once takes ten seconds.
MODULES = (
    "convinteger",
    "dequantizelinear",
    "dynamicquantizelinear",
    "matmulinteger",
    "qlinearconv",
    "qlinearmatmul",
    "quantizelinear",
)


def _cases() -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in MODULES:
            importlib.import_module(f"onnx.backend.test.case.node.{module}")
    found = {case.name: case for case in suite._NodeTestCases}
    return {name: case for name, case in found.items() if any(word in name for word in WORDS)}


CASES = _cases()


def test_the_suite_is_complete():
    assert len(CASES) == 45
    assert set(REFUSED) < set(CASES)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_refused(tmp_path, name):
    """Refused with a typed error before the importer sees it. A case that loads must leave the list."""
    with pytest.raises(UnsupportedOperatorError):
        load(CASES[name].model, tmp_path)


@pytest.mark.parametrize("name", sorted(set(CASES) - set(REFUSED)))
def test_answer(tmp_path, name):
    case = CASES[name]
    imported = import_model(load(case.model, tmp_path))
    executable = tvm.compile(relax.transform.LegalizeOps()(imported.module), target="llvm")
    machine = relax.VirtualMachine(executable, tvm.cpu())
    # TVM rounds float16 sums in other places than the reference does.
    steps = 1 if name.endswith("float16") else 0
    for inputs, expected in case.data_sets:
        result = machine["main"](*(tvm.runtime.tensor(np.asarray(x)) for x in inputs))
        results = [result] if hasattr(result, "numpy") else list(result)
        for actual, wanted in zip(results, expected, strict=True):
            assert actual.numpy().dtype == np.asarray(wanted).dtype
            difference = actual.numpy().astype(np.float64) - np.asarray(wanted).astype(np.float64)
            assert np.abs(difference).max() <= steps
