"""Calling a loaded library: data in, data out, and what is refused."""

from __future__ import annotations

import gc
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.runtime import Model, load
from pipeline.runtime.arguments import checked
from pipeline.runtime.manifest import TensorInfo


@pytest.fixture(scope="module")
def affine(libraries: dict[str, Path]) -> Model:
    return load(libraries["affine"], threads=1)


@pytest.fixture(scope="module")
def pair(libraries: dict[str, Path]) -> Model:
    return load(libraries["pair"], threads=1)


X = np.arange(4096, dtype="float32").reshape(4, 1024)
A = np.array([[1, 2, 3], [4, 5, 6]], "int8")


class Dlpack:
    """An array that only speaks DLPack, as torch tensors and the like do."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def at_offset(array: Any, offset: int) -> Any:
    """A copy of ``array`` whose address is ``offset`` bytes after a multiple of 64."""
    buffer = np.zeros(array.nbytes + 128, "uint8")
    start = -buffer.ctypes.data % 64 + offset
    copy = buffer[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


@pytest.mark.parametrize("offset", [0, 4, 16, 32], ids=lambda n: f"address mod 64 = {n}")
def test_input_at_any_address(affine, offset):
    """Compiled code loads whole vectors: an array that numpy aligned to 16 bytes ended in a segmentation fault."""
    np.testing.assert_array_equal(affine(at_offset(X, offset)), 2 * X + 1)


@pytest.mark.parametrize(
    "value",
    [np.asfortranarray(X), np.repeat(X, 2, axis=1)[:, ::2], Dlpack(X), {"x": X}],
    ids=["column-major", "strided", "dlpack", "by-name"],
)
def test_input_in_any_wrapping(affine, value):
    np.testing.assert_array_equal(affine(value), 2 * X + 1)


def test_read_only_input(affine):
    """DLPack refuses read-only arrays, such as those of a memory-mapped file."""
    x = X.copy()
    x.flags.writeable = False
    np.testing.assert_array_equal(affine(x), 2 * X + 1)


def test_several_inputs_and_outputs(pair):
    by_position, by_name = pair(A, A + A), pair({"b": A + A, "a": A})
    assert list(by_position) == ["sum", "same", "constant"]
    for result in (by_position, by_name):
        np.testing.assert_array_equal(result["sum"], 3 * A)
        np.testing.assert_array_equal(result["same"], A)
        np.testing.assert_array_equal(result["constant"], np.arange(6).reshape(2, 3))


def test_outputs_belong_to_the_caller(pair, affine):
    """An output that shares memory with the input, a constant or the next result changes under the caller's hands."""
    a = at_offset(A, 0)
    first = pair(a, A)
    assert not np.shares_memory(first["same"], a)
    first["constant"][...] = 77
    np.testing.assert_array_equal(pair(a, A)["constant"], np.arange(6).reshape(2, 3))
    one = affine(X)
    two = affine(X + 1)
    np.testing.assert_array_equal(one, 2 * X + 1)
    np.testing.assert_array_equal(two, 2 * X + 3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((), "0 inputs given, 2 needed.*a: int8"),
        ((A,), "1 inputs given, 2 needed"),
        ((A, A, A), "3 inputs given"),
        (({"a": A},), "missing b"),
        (({"a": A, "b": A, "c": A},), "unknown c"),
        ((A, A[:1]), r"'b' has shape \(1, 3\), \(2, 3\) needed; the batch is fixed.*--batch 1"),
        ((A, A[0]), r"shape \(3,\)"),
        ((A, A.astype("int32")), r"'b' has dtype int32, int8 needed.*astype\('int8'\)"),
        ((A.astype("float32"), A), r"'a' has dtype float32.*round\(x / 0.5\) \+ 3"),
        ((A, A.astype("uint8")), "uint8"),
        ((A, A.tolist()), "'b' is a list.*np.asarray"),
        ((A, None), "NoneType"),
        ((A, np.array([["x"] * 3] * 2)), "dtype <U1"),
        ((A, A.astype(object)), "dtype object"),
    ],
)
def test_wrong_input_is_refused(pair, values, message):
    """Data of another type read as int8 gives numbers, and wrong ones."""
    with pytest.raises(InputError, match=message):
        pair(*values)


def test_missing_batch_dimension_is_named(libraries):
    with pytest.raises(InputError, match=r"add the batch dimension with x\[None\]"):
        load(libraries["image"])(np.zeros((3, 8, 6), "float32"))


@pytest.mark.parametrize(("given", "wanted"), [((1,), ()), ((), (3,)), ((3,), ())], ids=str)
def test_numbers_without_a_batch(given, wanted):
    """Shapes without a first axis ended in an IndexError of the hint."""
    with pytest.raises(InputError, match=r"needed$"):
        checked(np.zeros(given, "float32"), TensorInfo("x", wanted, "float32"))


def test_other_byte_order_is_refused(affine):
    """Big-endian floats have the same item size and would be read as noise."""
    with pytest.raises(InputError, match="dtype >f4"):
        affine(X.astype(">f4"))


def test_tensor_elsewhere_is_refused(affine):
    class Gpu(Dlpack):
        def __dlpack__(self, **_options):
            raise BufferError("cannot export from device 2")

    with pytest.raises(InputError, match="move it to the CPU"):
        affine(Gpu(X))


def test_calls_from_several_threads(affine):
    """The virtual machine is not re-entrant: without a lock two calls at once crash the process."""
    wrong: list[int] = []

    def work(k):
        x = X + np.float32(k)
        wrong.extend(i for i in range(100) if not np.array_equal(affine(x), 2 * x + 1))

    workers = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def test_same_file_loaded_twice(libraries):
    """Both models share one copy of the code; dropping one must not pull it from under the other."""
    one, two = load(libraries["affine"]), load(libraries["affine"])
    del two
    gc.collect()
    np.testing.assert_array_equal(one(X), 2 * X + 1)


def test_recompiled_file_gives_the_new_code(libraries, tmp_path):
    """dlopen goes by name: the second load gave the library that was at this path before."""
    path = tmp_path / "model.so"
    shutil.copy(libraries["affine"], path)
    first = load(path)
    path.unlink()
    shutil.copy(libraries["pair"], path)
    second = load(path)
    values = [np.full((2, 3), value, np.int8) for value in (1, 2)]
    np.testing.assert_array_equal(second(*values)["sum"], np.full((2, 3), 3, np.int8))
    np.testing.assert_array_equal(first(np.zeros((4, 1024), np.float32)), np.ones((4, 1024), np.float32))


def test_outputs_outlive_the_model(libraries):
    model = load(libraries["affine"])
    y = model(X)
    del model
    gc.collect()
    np.testing.assert_array_equal(y, 2 * X + 1)


def test_what_a_model_says_of_itself(pair):
    assert [str(info) for info in pair.inputs] == ["a: int8[2, 3], scale 0.5, zero point 3", "b: int8[2, 3]"]
    assert [info.name for info in pair.outputs] == ["sum", "same", "constant"]
    assert pair.manifest.model_file == "pair.onnx"
    assert pair.threads == 1


def test_time(affine, pair):
    timing = affine.time(X, warmup=0, repeat=20)
    assert (timing.calls, timing.batch, timing.threads) == (20, 4, 1)
    assert 0 < timing.minimum <= timing.p50 <= timing.p90 <= timing.p99
    assert timing.throughput == pytest.approx(4e3 / timing.mean)
    assert pair.time(warmup=0, seconds=0.02).calls >= 1


@pytest.mark.parametrize(
    "options", [{"repeat": 0}, {"seconds": -1.0}, {"warmup": float("nan")}, {"seconds": float("inf")}], ids=str
)
def test_time_refuses_nonsense(affine, options):
    with pytest.raises(InputError, match=next(iter(options))):
        affine.time(**options)


def test_random_inputs_repeat(pair):
    first, second = pair.random_inputs(), pair.random_inputs()
    assert {name: array.dtype.name for name, array in first.items()} == {"a": "int8", "b": "int8"}
    np.testing.assert_array_equal(first["a"], second["a"])
