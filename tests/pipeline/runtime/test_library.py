"""Library files that must be refused before any of their code runs."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import LibraryError
from pipeline.runtime import Manifest, cpu, load, read_manifest, tvm_runtime
from pipeline.runtime.library import MAGIC
from pipeline.runtime.manifest import FORMAT


@pytest.fixture
def library(libraries: dict[str, Path]) -> bytes:
    return libraries["affine"].read_bytes()


def parts(library: bytes) -> tuple[bytes, bytes]:
    """The ELF part and the manifest."""
    length = int.from_bytes(library[-16:-8], "little")
    return library[: -16 - length], library[-16 - length : -16]


def join(elf: bytes, manifest: bytes) -> bytes:
    return elf + manifest + len(manifest).to_bytes(8, "little") + MAGIC


def flip(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


DAMAGE = {
    "empty": (lambda _: b"", "it is empty"),
    "text": (lambda _: b"not a library\n" * 99, "not a shared library for Linux"),
    "one byte": (lambda data: data[:1], "not a shared library"),
    "cut by a byte": (lambda data: data[:-1], "cut short"),
    "cut in half": (lambda data: data[: len(data) // 2], "cut short"),
    "no manifest": (lambda data: parts(data)[0], "made by another program"),
    "byte more": (lambda data: data + b"\0", "without Octet's manifest"),
    "code altered": (lambda data: flip(data, 5000), "its code is not what the manifest says"),
    "first byte of code altered": (lambda data: flip(data, 0), "not a shared library"),
    "middle missing": (lambda data: data[:4096] + data[8192:], "is damaged"),
    "length too large": (lambda data: data[:-16] + b"\xff" * 8 + MAGIC, "is damaged"),
    "length over the code": (lambda data: data[:-16] + len(data).to_bytes(8, "little") + MAGIC, "is damaged"),
    "length 0": (lambda data: data[:-16] + bytes(8) + MAGIC, "not JSON"),
    "manifest not JSON": (lambda data: join(parts(data)[0], b"{"), "not JSON"),
    "manifest not UTF-8": (lambda data: join(parts(data)[0], b"\xff\xfe\xff"), "not JSON"),
    "manifest nested": (lambda data: join(parts(data)[0], b"[" * 100_000), "not JSON"),
    "manifest a list": (lambda data: join(parts(data)[0], b"[]"), "not a JSON object"),
    "trailer alone": (lambda _: MAGIC, "not a shared library"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_file(library, tmp_path, damage, message):
    """A file that is cut or altered would crash in dlopen or, worse, run."""
    path = tmp_path / "bad.so"
    path.write_bytes(damage(library))
    with pytest.raises(LibraryError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(LibraryError, match=r"cannot read .*none.so: No such file"):
        load(tmp_path / "none.so")
    with pytest.raises(LibraryError, match="Is a directory"):
        load(tmp_path)


MANIFEST_DAMAGE: dict[str, tuple[Any, str]] = {
    "format": (1, f"has format 1 and this runtime reads format {FORMAT}"),
    "target": (None, "target is None"),
    "cpu_features": ([1], "cpu_features is 1"),
    "model_sha256": ("xyz", "64 hexadecimal"),
    "library_sha256": ("0" * 64, "its code is not what"),
    "integer_operators": (-1, "integer from 0"),
    "float_operators": (True, "float_operators is True"),
    "tuned_kernels": (-1, "tuned_kernels is -1"),
    "input_alignment": (0, "integer from 1"),
    "options": ([], "options is not an object"),
    "constants": ([{"offset": 2**30, "shape": [1], "dtype": "int8"}], "it ends before its constants do"),
    "inputs": ({}, "inputs is not a list"),
    "outputs": ([{"name": "y"}], r"outputs\[0\] without dtype, quantization, shape"),
    "unexpected": (1, "with unknown unexpected"),
}


@pytest.mark.parametrize(
    ("key", "value", "message"), [(k, *v) for k, v in MANIFEST_DAMAGE.items()], ids=MANIFEST_DAMAGE
)
def test_manifest_field_is_checked(library, tmp_path, key, value, message):
    elf, text = parts(library)
    path = tmp_path / "bad.so"
    path.write_bytes(join(elf, json.dumps({**json.loads(text), key: value}).encode()))
    with pytest.raises(LibraryError, match=message):
        load(path)


TENSOR = {"name": "x", "shape": [1, 3], "dtype": "int8", "quantization": {"scale": 0.1, "zero_point": 3}}
TENSOR_DAMAGE = {
    "negative dimension": {"shape": [-1]},
    "fractional dimension": {"shape": [1.5]},
    "too many elements": {"shape": [2**39, 2**39]},
    "rank": {"shape": [1] * 33},
    "dtype": {"dtype": "complex64"},
    "name": {"name": 3},
    "scale 0": {"quantization": {"scale": 0, "zero_point": 0}},
    "scale NaN": {"quantization": {"scale": float("nan"), "zero_point": 0}},
    "scale beyond float": {"quantization": {"scale": 10**400, "zero_point": 0}},
    "scale text": {"quantization": {"scale": "1", "zero_point": 0}},
    "zero point": {"quantization": {"scale": 1.0, "zero_point": 0.5}},
}


@pytest.mark.parametrize("change", TENSOR_DAMAGE.values(), ids=TENSOR_DAMAGE)
def test_tensor_of_manifest_is_checked(library, change):
    manifest = json.loads(parts(library)[1])
    with pytest.raises(LibraryError, match="manifest is not valid"):
        Manifest.from_json(json.dumps({**manifest, "inputs": [{**TENSOR, **change}]}))
    with pytest.raises(LibraryError, match="same name"):
        Manifest.from_json(json.dumps({**manifest, "inputs": [TENSOR, TENSOR]}))


CONSTANT = {"offset": 128, "shape": [64], "dtype": "int8"}
CONSTANT_DAMAGE = {
    "not a cache line": [{**CONSTANT, "offset": 1}],
    "one in another": [CONSTANT, {**CONSTANT, "offset": 128}],
    "negative offset": [{**CONSTANT, "offset": -64}],
    "dtype": [{**CONSTANT, "dtype": "object"}],
    "shape": [{**CONSTANT, "shape": [-1]}],
    "no object": [3],
}


@pytest.mark.parametrize("constants", CONSTANT_DAMAGE.values(), ids=CONSTANT_DAMAGE)
def test_constant_of_manifest_is_checked(library, constants):
    """Offsets out of order would make the runtime read another size than it takes apart."""
    manifest = json.loads(parts(library)[1])
    Manifest.from_json(json.dumps({**manifest, "constants": [CONSTANT]}))
    with pytest.raises(LibraryError, match="manifest is not valid"):
        Manifest.from_json(json.dumps({**manifest, "constants": constants}))


def test_manifest_round_trip(libraries):
    manifest = read_manifest(libraries["pair"])
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert manifest.inputs[0].quantization is not None
    with pytest.raises(LibraryError, match="without target"):
        Manifest.from_json(json.dumps({k: v for k, v in json.loads(manifest.to_json()).items() if k != "target"}))


def test_cpu_without_the_features(libraries, monkeypatch):
    """Code for another CPU ends in SIGILL at some later call."""
    monkeypatch.setattr(cpu, "host_features", lambda: frozenset({"sse2"}))
    path = libraries["affine"]
    with pytest.raises(LibraryError, match=f"{read_manifest(path).target} and needs .*this CPU lacks it; recompile"):
        load(path)


@pytest.mark.parametrize("field", ["tvm_version", "tvm_ffi_version"])
def test_other_tvm_release(libraries, field):
    """Bytecode and calling convention change between releases; post-releases keep them."""
    manifest = read_manifest(libraries["affine"])
    post_release: dict[str, Any] = {field: getattr(manifest, field) + ".post9"}
    tvm_runtime.check_versions(dataclasses.replace(manifest, **post_release))
    with pytest.raises(LibraryError, match=r"9\.9\.9.*pip install"):
        tvm_runtime.check_versions(dataclasses.replace(manifest, **{**post_release, field: "9.9.9"}))


def test_runtime_named_by_the_environment(tmp_path, monkeypatch):
    path = tvm_runtime.find()
    assert path.name == "libtvm_runtime.so"
    for named in (path, path.parent):
        monkeypatch.setenv(tvm_runtime.ENVIRONMENT, str(named))
        assert tvm_runtime.find() == path
    monkeypatch.setenv(tvm_runtime.ENVIRONMENT, str(tmp_path))
    with pytest.raises(LibraryError, match="OCTET_TVM_RUNTIME"):
        tvm_runtime.find()


def test_runs_where_tvm_cannot_be_imported(libraries):
    """A deployed program has no compiler: no part of the runtime may import it, not even on an error path."""
    program = f"""
import sys; sys.path[:0] = {[str(Path.cwd()), *sys.path]!r}
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tvm", "onnx", "PIL", "torch", "tqdm"):
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocker())
import numpy as np, pipeline
from pipeline.errors import InputError
model = pipeline.load({str(libraries["affine"])!r}, threads=2)
x = np.arange(4096, dtype="float32").reshape(4, 1024)
assert np.array_equal(model(x), 2 * x + 1)
try:
    model(x[:1])
except InputError as error:
    print("refused")
loaded = {{name.split(".")[0] for name in sys.modules}}
assert not loaded & {{"tvm", "onnx", "torch", "schedules"}}, loaded
try:
    import tvm
except ImportError:
    print("blocked")
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["refused", "blocked"], done.stderr


def test_code_that_does_not_load(library, tmp_path):
    """A sound manifest around something that is no library: the loader's complaint comes back as ours."""
    import hashlib

    elf = b"\x7fELF" + bytes(100)
    manifest = {**json.loads(parts(library)[1]), "library_sha256": hashlib.sha256(elf).hexdigest()}
    path = tmp_path / "hollow.so"
    path.write_bytes(join(elf, json.dumps(manifest).encode()))
    with pytest.raises(LibraryError, match="cannot load"):
        load(path)


def test_shape_of_arrays_follows_the_manifest(libraries):
    model = load(libraries["image"])
    assert np.shape(model(np.zeros((1, 3, 8, 6), "float32"))) == model.outputs[0].shape
