"""Deploy targets: names, what a CPU must have, and what LLVM makes of them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import TargetError
from pipeline.runtime import cpu
from pipeline.targets import PRESETS, resolve, supported_by_host

BASE = {"sse2", "fpu"}
AVX2 = BASE | {"sse4_2", "popcnt", "avx", "avx2", "fma", "f16c", "bmi1", "bmi2", "abm", "movbe"}
AVX512 = AVX2 | {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}


@pytest.mark.parametrize(
    ("features", "best"),
    [
        (AVX512 | {"avx512_vnni", "avx_vnni"}, "llvm-avx512-vnni"),
        (AVX2 | {"avx_vnni"}, "llvm-avxvnni"),
        (AVX512, "llvm-avx2"),
        (AVX2, "llvm-avx2"),
        (AVX2 - {"fma"}, "llvm"),
        (AVX512 - {"avx512vl"} | {"avx512_vnni"}, "llvm-avx2"),
        (BASE, "llvm"),
    ],
    ids=["Sapphire Rapids", "Alder Lake", "Skylake server", "Haswell", "no FMA", "no AVX-512VL", "first x86-64"],
)
def test_native_is_the_best_that_runs(monkeypatch, features, best):
    """A feature that is taken for granted ends in SIGILL on the CPU without it."""
    monkeypatch.setattr(cpu, "host_features", lambda: frozenset(features))
    assert resolve("native").name == best
    assert supported_by_host(resolve(best))


def test_native_without_any_fit(monkeypatch):
    monkeypatch.setattr(cpu, "host_features", lambda: frozenset({"asimd", "asimddp"}))
    with pytest.raises(TargetError, match=r"no target fits this machine.*llvm-avx2"):
        resolve("native")


@pytest.mark.parametrize("name", PRESETS)
def test_presets_by_name(name):
    assert resolve(name).name == name
    assert resolve(resolve(name)) is PRESETS[name]


@pytest.mark.parametrize(
    ("name", "guess"),
    [("llvm-avx512vnni", "llvm-avx512-vnni"), ("AVX2", "llvm-avx2"), ("LLVM", "llvm"), ("nativ", "native")],
)
def test_unknown_name_suggests(name, guess):
    with pytest.raises(TargetError, match=f"Did you mean '{guess}'.*Choose one of: native, llvm-amx, llvm-avx512-vnni"):
        resolve(name)


def test_unknown_name_without_a_near_one():
    with pytest.raises(TargetError, match=r"unknown target 'z80'\. Choose one of"):
        resolve("z80")


def assembly(name: str) -> str:
    """Assembly of out = round(x * 0.3) + x in vectors of the target's width."""
    import tvm
    from tvm import te, tirx
    from tvm.s_tir import Schedule

    target = PRESETS[name]
    x = te.placeholder((1024,), "float32", "x")
    out = te.compute((1024,), lambda i: tirx.nearbyint(x[i] * tirx.const(0.3, "float32")) + x[i], "out")
    schedule = Schedule(te.create_prim_func([x, out]))
    _, lanes = schedule.split(schedule.get_loops(schedule.get_sblock("out"))[0], [None, target.vector_bytes // 4])
    schedule.vectorize(lanes)
    return tvm.tirx.build(schedule.mod, target=target.tvm_target()).inspect_source("asm")


REGISTER = {16: "xmm", 32: "ymm", 64: "zmm"}


@pytest.mark.parametrize("name", PRESETS)
def test_vectors_have_the_width_of_the_target(name):
    """LLVM prefers 256 bits on a Cascade Lake and cut every 512-bit vector in two."""
    width = PRESETS[name].vector_bytes
    text = assembly(name)
    assert re.search(rf"\bv?addps\b.*%{REGISTER[width]}", text)
    for wider in (w for w in REGISTER if w > width):
        assert f"%{REGISTER[wider]}" not in text


def test_tvm_target():
    attributes = PRESETS["llvm-avx512-vnni"].tvm_target(num_cores=3).attrs
    assert (attributes["mcpu"], int(attributes["num-cores"])) == ("cascadelake", 3)


@pytest.mark.parametrize(
    ("text", "features"),
    [
        ("processor: 0\nflags\t\t: fpu sse2 avx\nprocessor: 1\nflags\t\t: fpu sse2\n", {"fpu", "sse2"}),
        ("Features\t: fp asimd asimddp\n", {"fp", "asimd", "asimddp"}),
        ("model name: nothing said\n", set()),
        ("", set()),
    ],
    ids=["cores differ", "Arm", "no flags", "empty"],
)
def test_cpuinfo(text, features):
    """A process may be moved to any core, so what one core lacks the machine lacks."""
    assert cpu.parse_cpuinfo(text) == features


def test_physical_cores_count_hyper_threads_once(monkeypatch, tmp_path):
    for number, siblings in enumerate(["0,2", "1,3", "0,2", "1,3"]):
        folder = tmp_path / f"cpu{number}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(siblings + "\n")
    monkeypatch.setattr(cpu, "_TOPOLOGY", tmp_path)
    for usable, cores in (((0, 1, 2, 3), 2), ((0, 2), 1), ((1,), 1), ((0, 7), 2)):
        monkeypatch.setattr(cpu, "usable_cpus", lambda usable=usable: usable)
        assert cpu.physical_cores() == cores


def test_importing_the_package_is_cheap():
    """``import pipeline`` and the targets must not import TVM, which takes a second."""
    program = f"""
import sys; sys.path[:0] = {[str(Path.cwd()), *sys.path]!r}
import pipeline, pipeline.targets, pipeline.cli.main
pipeline.targets.resolve("llvm")
assert "compile" in dir(pipeline) and pipeline.__version__
print("tvm" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stderr


def test_package_has_no_other_names():
    import pipeline

    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = pipeline.nonsense
