"""The processes in which engines are measured, and what is computed from their times."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from experiments.engines import ENGINES
from experiments.measure import EngineError, EngineProcess, Timing, alternate

ROOT = Path(__file__).resolve().parents[2]
SHAPE = (2, 3, 8, 8)


@pytest.fixture(scope="module")
def process() -> Iterator[EngineProcess]:
    with closing(EngineProcess("onnxruntime-fp32")) as process:
        yield process


@pytest.fixture
def relu(tmp_path: Path) -> Path:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, 8, 8]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", value[:1], value[1:])
    path = tmp_path / "relu.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_engine_is_prepared_loaded_and_timed(process: EngineProcess, relu: Path, tmp_path: Path) -> None:
    artefact = process.prepare(relu, tmp_path, batch=2, target="llvm", threads=[1])["artefact"]
    assert artefact == str(relu)
    process.load(artefact, threads=1, shape=SHAPE)
    times = process.run(seconds=0.05)
    assert len(times) > 1
    assert all(0 < time < 1 for time in times)
    timings, failures = alternate({"a": process}, rounds=2, seconds=0.0, clock="cpu")
    assert len(timings["a"].rounds) == 2
    assert not failures


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_is_installed_or_says_what_to_install(name: str) -> None:
    reason = ENGINES[name].unavailable()
    assert reason is None or "pip install" in reason


def test_engine_that_dies_between_rounds_does_not_cost_the_others(relu: Path) -> None:
    dead = EngineProcess("no-such-engine")
    with closing(EngineProcess("onnxruntime-fp32")) as process, closing(dead):
        process.load(str(relu), threads=1, shape=SHAPE)
        timings, failures = alternate({"a": dead, "b": process}, rounds=2, seconds=0.0, clock="wall")
    assert list(timings) == ["b"]
    assert "ended with code 2" in str(failures["a"])


def test_memory_is_counted_above_the_imported_engine(relu: Path) -> None:
    """numpy and the engine itself are not what a network needs."""
    with closing(EngineProcess("onnxruntime-fp32")) as process:
        memory = process.memory(str(relu), threads=1, shape=SHAPE)
    assert 10 < memory["imported_mib"] < memory["loading_mib"]
    assert memory["imported_mib"] < memory["running_mib"] <= memory["loading_mib"] + 1


def test_failure_is_told_and_does_not_end_the_process(process: EngineProcess, relu: Path, tmp_path: Path) -> None:
    """One network that an engine cannot load must not cost the rest of the comparison."""
    with pytest.raises(EngineError, match=r"onnxruntime-fp32: .*missing\.onnx"):
        process.load(str(tmp_path / "missing.onnx"), threads=1, shape=SHAPE)
    process.load(str(relu), threads=1, shape=SHAPE)
    assert process.run(seconds=0.0)


def test_run_before_load_is_an_error() -> None:
    with closing(EngineProcess("onnxruntime-fp32")) as process, pytest.raises(EngineError, match="nothing is loaded"):
        process.run(seconds=0.0)


def test_end_of_the_process_is_an_error_and_not_a_hang() -> None:
    process = EngineProcess("no-such-engine")
    with closing(process), pytest.raises(EngineError, match="ended with code 2"):
        process.run(seconds=0.0)


def test_ratio_is_taken_round_by_round() -> None:
    """A disturbance that slows one round of both engines must not move the ratio."""
    peer, octet = Timing((2.0, 20.0, 2.2)), Timing((1.0, 10.0, 1.1))
    assert peer.times_slower_than(octet) == pytest.approx(2.0)
    assert (peer.median, peer.best) == (2.2, 2.0)


def test_memory_of_pytorch_is_not_counted_as_octets() -> None:
    """tvm_ffi imports it wherever it is installed: 180 MiB that no program with Octet alone has."""
    script = (
        "import sys\n"
        "from experiments.engines import ENGINES\n"
        "ENGINES['octet'].import_packages()\n"
        "assert 'tvm_ffi' in sys.modules and sys.modules.get('torch') is None\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_engines_are_held_to_avx2_before_they_are_imported() -> None:
    """oneDNN reads its variable when it is first used, PyTorch when it is loaded."""
    script = (
        "import os, sys\n"
        "from experiments.isa_limit import hold_to\n"
        "hold_to('avx2')\n"
        "assert os.environ['ONEDNN_MAX_CPU_ISA'] == os.environ['MKL_ENABLE_INSTRUCTIONS'] == 'AVX2'\n"
        "assert not {'openvino', 'torch', 'onnxruntime'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


@pytest.mark.skipif((sys.platform, platform.machine()) != ("linux", "x86_64"), reason="AMX is x86-64 Linux's matter")
def test_amx_is_refused_after_deny() -> None:
    """Else a comparison "without AMX" would measure AMX. EPERM is the filter's answer, whatever the CPU has."""
    script = (
        "import ctypes, errno\n"
        "from experiments.isa_limit import amx_granted, deny_amx\n"
        "deny_amx()\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "assert libc.syscall(158, 0x1023, 18) == -1 and ctypes.get_errno() == errno.EPERM, ctypes.get_errno()\n"
        "assert not amx_granted()\n"
        "assert libc.syscall(39) > 0, 'other system calls must still work'\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
