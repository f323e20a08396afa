"""Sums of products that no number of threads changes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.quantization.products import product
from tests.pipeline.quantization.networks import Net

_PROGRAM = """
import sys
import numpy as np
import pipeline

rng = np.random.default_rng(0)
data = [{"x": rng.normal(size=(4, 13, 14, 13)).astype(np.float32)} for _ in range(2)]
for index, options in enumerate(({"weight_bits": 4}, {"rounding": "adaround"})):
    pipeline.quantize("model.onnx", data, output=f"{sys.argv[1]}-{index}.onnx", **options)
"""


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_product(dtype):
    """Of whole numbers, so exact; one matrix, and several."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(-9, 9, (3, 5, 4)).astype(dtype), rng.integers(-9, 9, (3, 4, 2)).astype(dtype)
    for left, right in ((a, b), (a[0], b[0])):
        result = product(left, right)
        assert result.dtype == dtype
        np.testing.assert_array_equal(result, left @ right)


def test_same_bytes_for_any_number_of_threads(tmp_path):
    """OpenBLAS sums in another order on two threads, by which scales of 4 bits and adaptive rounding differed.

    The sides are no multiples of a vector, and the products large enough that it divides them; its kernels for AVX2
    differ in more places than those for AVX-512.
    """
    net = Net(("N", 13, 14, 13)).conv("x", "a", 37, 13).op("Relu", "a", "ar").conv("ar", "b", 83, 37)
    net.op("Relu", "b", "br").conv("br", "y", 131, 83).file(tmp_path, "y")
    others = {name: value for name, value in os.environ.items() if "THREADS" not in name}
    others |= {"PYTHONPATH": str(Path(__file__).parents[3]), "OPENBLAS_CORETYPE": "Haswell"}
    runs = [
        subprocess.Popen([sys.executable, "-c", _PROGRAM, count], cwd=tmp_path, env=others | threads)
        for count in ("1", "2")
        for threads in [dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), count)]
    ]
    assert [run.wait(timeout=120) for run in runs] == [0, 0]
    for index in range(2):
        one, two = (tmp_path / f"{count}-{index}.onnx" for count in ("1", "2"))
        assert one.read_bytes() == two.read_bytes()
