"""The limits of this machine are measured once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.errors import TargetError
from pipeline.profiling import Roofline, find_roofline, limits, roofline
from pipeline.targets import resolve

TARGET = resolve("llvm")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "octet" / "rooflines"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of threads measured so far; the n-th peak is n GMAC/s."""
    seen: list[int] = []

    def peak(_target: object, threads: int) -> limits.Speed:
        seen.append(threads)
        return limits.Speed(float(len(seen)), disturbed=False)

    speeds = [(1 << 14, limits.Speed(9.0, disturbed=False))]
    monkeypatch.setattr(limits, "peak_gmacs", peak)
    monkeypatch.setattr(limits, "bandwidths", lambda *_arguments: speeds)
    return seen


def test_measured_once(cache: Path, measured: list[int]) -> None:
    """Once for each number of threads, and again when asked; the file is that of the last time."""
    assert find_roofline(TARGET, 1) == find_roofline(TARGET, 1)
    assert measured == [1]
    find_roofline(TARGET, 2)
    assert measured == [1, 2]
    assert find_roofline(TARGET, 1, remeasure=True).peak_gmacs == 3.0
    assert find_roofline(TARGET, 1).peak_gmacs == 3.0
    assert len(list(cache.iterdir())) == 2


DAMAGE = {
    "empty": "",
    "cut": "{",
    "a list": "[]",
    "a number": "7",
    "other version": {"version": 0},
    "peak 0": {"peak_gmacs": 0},
    "peak NaN": {"peak_gmacs": float("nan")},
    "no bandwidth": {"bandwidths": []},
    "half a bandwidth": {"bandwidths": [[1]]},
    "out of order": {"bandwidths": [[2, 1.0], [1, 1.0]]},
    "text for a speed": {"bandwidths": [[1, "fast"]]},
    "other CPU": {"cpu": "another"},
    "other target": {"target": "llvm-amx"},
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_file_that_cannot_be_used(cache: Path, measured: list[int], damage: str | dict[str, object]) -> None:
    """It is measured again, and the file is good afterwards."""
    find_roofline(TARGET, 1)
    (path,) = cache.iterdir()
    path.write_text(damage if isinstance(damage, str) else json.dumps({**json.loads(path.read_text()), **damage}))
    assert find_roofline(TARGET, 1).peak_gmacs == 2.0
    assert find_roofline(TARGET, 1).peak_gmacs == 2.0
    assert measured == [1, 1]


def test_disturbed_measurement_is_not_kept(cache: Path, measured: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """It would make every later profile look better than it is."""
    monkeypatch.setattr(limits, "bandwidths", lambda *_: [(1 << 14, limits.Speed(9.0, disturbed=True))])
    assert find_roofline(TARGET, 1).disturbed
    find_roofline(TARGET, 1)
    assert measured == [1, 1]
    assert not cache.exists()


def test_cache_folder_that_cannot_be_made(tmp_path: Path, measured: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert find_roofline(TARGET, 1).peak_gmacs == 1.0
    assert measured == [1]


@pytest.mark.parametrize("named", [None, "", "relative/folder"], ids=["unset", "empty", "relative"])
def test_cache_folder_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str | None) -> None:
    """The XDG specification: a path that is not absolute counts for nothing."""
    monkeypatch.setenv("HOME", str(tmp_path))
    if named is None:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", named)
    assert roofline._folder() == tmp_path / ".cache" / "octet" / "rooflines"


def test_target_of_another_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its instructions would kill the process."""
    monkeypatch.setattr(roofline, "supported_by_host", lambda _target: False)
    with pytest.raises(TargetError, match="this CPU does not run it"):
        find_roofline(TARGET, 1, remeasure=True)


def test_file_name_tells_cpus_apart() -> None:
    assert roofline._slug("Intel(R) Xeon(R) Processor 6 207 2") == "intel-xeon-processor-6-207-2"
    assert Roofline("a", "b", 1, 1.0, ((1, 1.0),)) != Roofline("a2", "b", 1, 1.0, ((1, 1.0),))
