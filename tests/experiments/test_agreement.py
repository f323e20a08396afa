"""The comparison with onnxruntime judges as promised, and says what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments import agreement
from experiments.agreement import Case, Result

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
def test_every_case_names_files_that_exist(case: Case, shared_dir: Path) -> None:
    folder = shared_dir / "models" / case.model
    assert (folder / case.file).is_file()
    assert (folder / "model.onnx").is_file()
