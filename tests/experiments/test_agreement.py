"""The comparison with onnxruntime judges as promised, and says what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments import agreement
from experiments.agreement import Case, Result
from pipeline.targets import PRESETS, DeployTarget, supported_by_host

MANY, FEW = Case("cifar", "a.onnx"), Case("imagenet", "b.onnx", max_other_class=2)


def _result(images: int, top1_octet: float, other_class: int) -> Result:
    return Result(images, 92.0, 91.7, top1_octet, other_class, 0.01, 5.0)


@pytest.mark.parametrize(
    ("case", "result", "holds"),
    [
        (MANY, _result(10_000, 91.6, 50), True),
        (MANY, _result(10_000, 91.59, 0), False),
        (MANY, _result(10_000, 91.81, 0), False),
        (MANY, _result(10_000, 91.7, 51), False),
        (FEW, _result(249, 80.0, 2), True),
        (FEW, _result(249, 91.7, 3), False),
    ],
    ids=["at-the-edge", "less-accurate", "too-accurate", "other-classes", "two-images", "three-images"],
)
def test_promise_is_judged(case: Case, result: Result, holds: bool) -> None:
    assert case.holds(result) is holds
    verdict = "yes" if holds else "NO"
    assert agreement.to_markdown({case: result}).endswith(f"| {verdict} |")


def test_results_are_written_with_the_machine_and_settings() -> None:
    data = agreement.to_json({FEW: _result(249, 91.7, 1)}, {"target": "llvm"})
    assert data["results"][0]["other_class"] == 1
    assert data["results"][0]["as_promised"] is True
    assert {"cpu", "load_average", "date", "versions"} <= set(data["machine"])


@pytest.mark.parametrize("arguments", [["--shared", "/no/such/folder"], ["resnet51"], ["--batch", "0"]])
def test_bad_arguments_end_with_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = agreement.main(arguments)
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    assert code == 2
    assert arguments[-1] in capsys.readouterr().err


@pytest.mark.shared
@pytest.mark.parametrize("case", agreement.CASES, ids=lambda case: case.name)
def test_library_agrees_with_onnxruntime_on_real_images(case: Case, shared_dir: Path, tmp_path: Path) -> None:
    """Errors that only real weights and activations show; few images, and a batch that does not divide their number."""
    limit = 500 if case.max_other_class is None else 26
    result = agreement.compare(case, shared_dir, batch=4, limit=limit, libraries=tmp_path)
    assert result.images == limit
    assert case.holds(result), result


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize(
    "target", [target for target in PRESETS.values() if supported_by_host(target)], ids=lambda target: target.name
)
@pytest.mark.parametrize("case", agreement.CASES, ids=lambda case: case.name)
def test_promise_holds_on_all_images(case: Case, target: DeployTarget, shared_dir: Path, tmp_path: Path) -> None:
    """What the README claims, for every target that this machine can run."""
    result = agreement.compare(case, shared_dir, target.name, libraries=tmp_path)
    assert case.holds(result), result
