"""Constants that a library keeps apart from its code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import relax

from pipeline.errors import LibraryError
from pipeline.package import package
from pipeline.passes.separate_constants import LARGE, SeparateConstants
from pipeline.runtime import Signature, TensorInfo, load, read_manifest
from pipeline.runtime.constants import read_constants
from pipeline.targets import resolve
from tests.pipeline.conftest import SHA

MIB = 1 << 20
SIZE = 24 * MIB
SIGNATURE = Signature((TensorInfo("x", (1,), "int8"),), (TensorInfo("y", (SIZE,), "int8"),))


def executable(constants: SeparateConstants) -> tvm.runtime.Executable:
    """y = a + (b + x), where a is small enough to stay in the code and b is not; b is used twice."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1,), "int8"))
    small = relax.const(np.full(1, 3, "int8"))
    large = relax.const((np.arange(SIZE) % 13).astype("int8"))
    with builder.function("main", [x]):
        with builder.dataflow():
            total = builder.emit(relax.op.add(large, x))
            total = builder.emit(relax.op.add(total, large))
            output = builder.emit_output(relax.op.add(total, small))
        builder.emit_func_output(output)
    return tvm.compile(builder.get(), target=resolve("llvm").tvm_target(), relax_pipeline=constants.pipeline())


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    constants = SeparateConstants()
    built = executable(constants)
    output = tmp_path_factory.mktemp("constants") / "m.so"
    return package(built, resolve("llvm"), SIGNATURE, model_sha256=SHA, output=output, constants=constants.arrays)


def test_values(library):
    (info,) = read_manifest(library).constants
    assert (info.shape, info.dtype, info.offset % 64) == ((SIZE,), "int8", 0)
    expected = (2 * (np.arange(SIZE) % 13) + 3 + 5).astype("int8")
    assert np.array_equal(load(library)(np.full(1, 5, "int8")), expected)


def test_several_keep_their_order(tmp_path, affine_executable):
    """Types and odd sizes mixed: each begins at a cache line."""
    rng = np.random.default_rng(0)
    arrays = [
        rng.integers(-9, 9, 5000).astype("int8"),
        rng.standard_normal((3, 7)).astype("float32"),
        np.zeros((0, 4), "int32"),
        rng.integers(-9, 9, (2, 2, 2)).astype("int32"),
    ]
    path = package(
        affine_executable, resolve("llvm"), SIGNATURE, model_sha256=SHA, output=tmp_path / "m.so", constants=arrays
    )
    found = read_constants(path, read_manifest(path).constants)
    for array, original in zip(found, arrays, strict=True):
        assert array.dtype == original.dtype
        assert array.ctypes.data % 64 == 0 or not array.size
        assert np.array_equal(array, original)


def test_small_constants_stay_in_the_code():
    """An argument costs something at every call."""
    constants = SeparateConstants()
    executable(constants)
    assert [array.nbytes for array in constants.arrays] == [SIZE]
    assert LARGE > 1


def test_file_that_was_cut_after_the_check(library, tmp_path):
    path = tmp_path / "cut.so"
    path.write_bytes(library.read_bytes()[: SIZE // 2])
    with pytest.raises(LibraryError, match="ends within its constants"):
        read_constants(path, read_manifest(library).constants)


def test_memory_holds_them_once(library):
    """The pages of the file, the section's text and the tensors made of it once were in memory at the same time."""
    program = f"""
import sys; sys.path[:0] = {[str(Path.cwd()), *sys.path]!r}
from pathlib import Path
from pipeline.runtime import load, tvm_runtime
def status(entry):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(entry)) * 1024
tvm_runtime.start()
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
model = load({str(library)!r}, threads=1)
print(status("VmHWM") - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, env=dict(os.environ)
    )
    assert SIZE <= int(done.stdout) < 1.25 * SIZE
