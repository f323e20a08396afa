"""The accuracy study never tests on what it calibrated with, and its tables and verdicts say what was measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from experiments import accuracy, peer_quantizer, real_data
from experiments.accuracy_report import Results, Score, draw, read_json, to_markdown, verdicts, write_json
from experiments.accuracy_rows import DEFAULT, MINMAX, ONNXRUNTIME, PEERS, REFERENCE, STUDIES, Row, rows_of
from pipeline.quantization import OBSERVERS

NARROW = Row(bits=4, weight_range="output")
NARROW_MINMAX = Row(method="minmax", bits=4, weight_range="minmax")


def _score(right: int, images: int = 1000) -> Score:
    return Score(images, (right,), (images,), 30.0)


def _with_library(right: tuple[int, int], literal: tuple[int, int]) -> Score:
    """Of two splits, in which the fused kernels get 897 of 1,000 right."""
    return Score(
        1000, (897, 897), (1000, 1000), 30.0,
        library_right=right, library_other_class=(2, 1), literal_right=literal, literal_other_class=(2, 1),
    )  # fmt: skip


def _held(results: Results) -> dict[str, bool]:
    return {verdict["claim"]: verdict["holds"] for verdict in verdicts(results)}


@pytest.fixture
def results() -> Results:
    return {
        "squeezenet1.1": {
            REFERENCE: _score(900),
            DEFAULT: replace(
                Score(1000, (890, 900), (980, 1000), 30.0, 2, 125, 7.0),
                library_right=(888, 900),
                library_other_class=(3, 2),
                literal_right=(893, 893),
                literal_other_class=(4, 4),
            ),
            MINMAX: _score(880),
            PEERS[0]: _score(894),
            PEERS[1]: _score(895),
            NARROW: _score(700),
            NARROW_MINMAX: _score(500),
        }
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like that of the real data: a classifier of 10 classes, CIFAR-10 archives and a few JPEG files."""
    folder = tmp_path_factory.mktemp("shared")
    rng = np.random.default_rng(5)
    for model, size in (("mlperf-ic-resnet8", 32), ("squeezenet1.1", 227)):
        (folder / "models" / model).mkdir(parents=True)
        onnx.save(_classifier(rng, size), folder / "models" / model / "model.onnx")
    cifar, jpegs = folder / "data" / "cifar10", folder / "data" / "imagenet-samples"
    cifar.mkdir(parents=True)
    jpegs.mkdir()
    for name, first in (("test10k", 0), ("train2k", 100)):
        pixels = rng.integers(0, 50, (20, 32, 32, 3)) + first
        np.savez(cifar / name, images=pixels.astype(np.uint8), labels=np.arange(20) % 10)
    for index in range(5):
        Image.new("RGB", (16, 16), (50 * index,) * 3).save(jpegs / f"{index}.JPEG")
    (jpegs / "labels.txt").write_text("".join(f"{index}.JPEG {index}\n" for index in range(5)))
    return folder


def _classifier(rng: np.random.Generator, size: int) -> onnx.ModelProto:
    weights = rng.normal(size=(10, 3, 3, 3)).astype(np.float32)
    nodes = [
        onnx.helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
        onnx.helper.make_node("Relu", ["c"], ["r"], name="relu"),
        onnx.helper.make_node("GlobalAveragePool", ["r"], ["p"], name="pool"),
        onnx.helper.make_node("Flatten", ["p"], ["y"], name="flatten"),
    ]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "classifier",
        [value("x", onnx.TensorProto.FLOAT, ["N", 3, size, size])],
        [value("y", onnx.TensorProto.FLOAT, ["N", 10])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def test_every_observer_is_measured_and_every_row_has_its_own_name() -> None:
    rows = rows_of(list(STUDIES))
    assert {row.method for row in STUDIES["observers"]} == set(OBSERVERS)
    assert len({row.name for row in rows}) == len(rows) == len(set(rows))
    assert {row.bits for row in rows} == {8, 4, 3, 2}


def test_archives_are_calibrated_on_the_training_set(folder: Path) -> None:
    training = real_data.load_training("mlperf-ic-resnet8", 6, folder)
    assert training is not None
    assert training.shape == (6, 3, 32, 32)
    assert training.dtype == np.float32
    assert training.min() >= 100
    assert real_data.load_training("squeezenet1.1", 6, folder) is None


def test_halves_of_other_sets_change_places_and_share_no_image() -> None:
    splits = accuracy.halvings(np.zeros((9, 1)), 4, splits=3)
    assert len(splits) == 3
    for first, second in splits:
        assert sorted([*first.test, *second.test]) == list(range(9))
        for fold in (first, second):
            assert not {*fold.test} & {*fold.calibration}
            assert len(fold.calibration) == 4
    assert len({tuple(sorted(first.test)) for first, _ in splits}) == 3  # the same halves again would tell nothing


@pytest.mark.parametrize(("count", "stride"), [(1, 1), (7, 7), (125, 25), (124, 31), (500, 25), (37, 1)])
def test_stride_divides_the_images_as_onnxruntime_demands(count: int, stride: int) -> None:
    assert peer_quantizer.stride_of(count) == stride


@pytest.mark.parametrize(
    "row",
    [
        DEFAULT,
        NARROW,
        Row(symmetric=True, granularity="per-tensor"),
        *PEERS,
        Row(ONNXRUNTIME, "MinMax", False, "per-tensor"),
    ],
    ids=lambda row: row.name,
)
def test_quantised_file_follows_the_row(row: Row, folder: Path, tmp_path: Path) -> None:
    """A row must measure what its name says: granularity and bits are looked up in the file."""
    training = real_data.load_training("mlperf-ic-resnet8", 6, folder)
    assert training is not None
    output = tmp_path / "q.onnx"
    accuracy.quantize(folder / "models" / "mlperf-ic-resnet8" / "model.onnx", training, output, row)
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(output).graph.initializer}
    (name,) = [name for name, value in tensors.items() if value.ndim == 4]
    (node,) = [node for node in onnx.load(output).graph.node if node.input[0] == name]
    assert tensors[node.input[1]].size == (10 if row.granularity == "per-channel" else 1)
    assert len(np.unique(tensors[name])) > 2 ** (row.bits - 2)
    assert np.abs(tensors[name].astype(int)).max() <= 2 ** (row.bits - 1)


def test_study_measures_and_compiles(folder: Path) -> None:
    study = accuracy.Study("squeezenet1.1", folder)
    reference, score = study.reference(), study.measure(DEFAULT, "llvm", splits=2)
    assert (reference.images, reference.same_class, reference.sqnr_db) == (5, (5,), 200.0)
    assert score.sqnr_db < 200
    assert score.library_other_class == score.literal_other_class == (0, 0)
    assert score.library_right == score.literal_right == score.right
    assert len(score.right) == 2


def test_sqnr_of_known_noise() -> None:
    assert accuracy.sqnr(np.full(4, 10.0), np.full(4, 11.0)) == 20.0


@pytest.mark.parametrize(
    ("alone", "default_alone", "p_value"), [(1, 0, 1.0), (5, 5, 1.0), (0, 6, 0.03125), (8, 1, 0.0390625)]
)
def test_chance_of_a_difference(alone: int, default_alone: int, p_value: float) -> None:
    """Against tables of the sign test."""
    score = replace(_score(90, 100), right_alone=(alone,), default_right_alone=(default_alone,))
    assert score.p_value == pytest.approx(p_value)
    assert _score(90).p_value is None
    again = replace(score, right=(90, 90), right_alone=(alone, alone), default_right_alone=(default_alone,) * 2)
    assert again.p_value is None  # the same images twice are no evidence twice


def test_images_that_one_quantiser_alone_gets_right(folder: Path) -> None:
    study = accuracy.Study("squeezenet1.1", folder)
    other = Row(bits=2)
    default, score = study.measure(DEFAULT, splits=3), study.measure(other, splits=2)
    score = study.beside_default(other, score)
    assert score.right_alone is not None
    assert score.default_right_alone is not None
    ahead = np.subtract(score.right_alone, score.default_right_alone)
    np.testing.assert_array_equal(ahead, np.subtract(score.right, default.right[:2]))


def test_images_of_all_splits_are_told(results: Results) -> None:
    results["squeezenet1.1"][PEERS[0]] = replace(
        _score(0), right=(895, 893), right_alone=(6, 1), default_right_alone=(1, 8)
    )
    text = to_markdown(results)
    assert "89.50; MinMax 89.40 (9 : 7 images in 2 splits), Entropy 89.50 |" in text
    assert "images of another class than these choose: 5 compiled, 8 operator by operator in 2 splits |" in text


def test_promises_hold_at_their_edges(results: Results) -> None:
    assert set(_held(results).values()) == {True}


@pytest.mark.parametrize(
    ("row", "score", "claim"),
    [
        (DEFAULT, _score(891), "default accurate enough"),
        (PEERS[0], _score(896), "default ≥ onnxruntime"),
        (NARROW_MINMAX, _score(701), "4 bits: least squared error of results ahead of min-max"),
        (
            Row(granularity="per-tensor", bits=4, weight_range="output"),
            _score(701),
            "4 bits: per channel ahead of per tensor",
        ),
        (
            DEFAULT,
            _with_library((895, 896), (895, 896)),
            "compiled as accurate as onnxruntime's fused kernels",
        ),
        (
            DEFAULT,
            _with_library((897, 896), (895, 895)),
            "compiled as accurate as the QDQ file, operator by operator",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_broken_promise_is_told(row: Row, score: Score, claim: str, results: Results) -> None:
    results["squeezenet1.1"][row] = score
    assert _held(results)[claim] is False
    assert "| NO |" in to_markdown(results)


def test_table_shows_losses_and_the_library(results: Results) -> None:
    text = to_markdown(results)
    assert "### squeezenet1.1: 1,000 test images, FP32 90.00 %" in text
    assert (
        "| Octet | mse **(default)** | no | per-channel | 8 | minmax | 2 | 89.50 | 0.50 | 99.00 % | 30.0 | 89.40 | 7 |"
        in text
    )
    widths = {line.count("|") for line in text.splitlines() if line.startswith("| Octet")}
    assert widths == {14}


def test_results_survive_the_file_and_are_drawn(results: Results, tmp_path: Path) -> None:
    write_json(results, {"limit": None}, tmp_path / "new" / "a.json")
    assert read_json(tmp_path / "new" / "a.json") == results
    assert json.loads((tmp_path / "new" / "a.json").read_text())["settings"] == {"limit": None}
    assert read_json(tmp_path / "none.json") == {}
    draw(results, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_update_keeps_other_rows(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    common = ["mlperf-ic-resnet8", "--shared", str(folder), "--no-library", "--calibration", "6", "--json", str(file)]
    accuracy.main([*common, "--study", "peers", "--rows", "mse"])
    accuracy.main([*common, "--study", "observers", "--rows", "percentile", "--update"])
    assert list(read_json(file)["mlperf-ic-resnet8"]) == [REFERENCE, DEFAULT, Row(method="percentile")]


def test_redraw_measures_nothing(results: Results, tmp_path: Path) -> None:
    write_json(results, {}, tmp_path / "a.json")
    before = (tmp_path / "a.json").read_bytes()
    files = [
        "--json",
        str(tmp_path / "a.json"),
        "--figure",
        str(tmp_path / "a.png"),
        "--markdown",
        str(tmp_path / "a.md"),
    ]
    assert accuracy.main(["--redraw", "--shared", "/no/such/folder", *files]) == 0
    assert (tmp_path / "a.json").read_bytes() == before
    assert (tmp_path / "a.md").read_text().startswith(to_markdown(results))
    assert (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--shared", "/no/such/folder"],
        ["resnet51"],
        ["--study", "colours"],
        ["--rows", "nothing"],
        ["--limit", "0"],
        ["--update"],
        ["--redraw"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_bad_arguments_end_with_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = accuracy.main(arguments)
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    assert code == 2
    assert arguments[-1] in capsys.readouterr().err
