"""``octet quantize``, ``accuracy`` and ``compare``: a user's way from a float model to a trusted library."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from pipeline.cli.main import main
from pipeline.data import describe_model
from pipeline.errors import InputError
from tests.pipeline.quantization.networks import Net

DIGITS = Path(__file__).resolve().parents[3] / "examples" / "digits"
FLOAT, IMAGES = DIGITS / "digits_fp32.onnx", DIGITS / "heldout.npz"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with q.onnx, made with pixels of another scale than the default, and q.so."""
    folder = tmp_path_factory.mktemp("made")
    arguments = ["--data", IMAGES, "--samples", 100, "--scale", "1/256", "--batch", 20]
    assert octet("quantize", FLOAT, *arguments, "-o", folder / "q.onnx") == 0
    assert octet("compile", folder / "q.onnx", "-o", folder / "q.so") == 0
    return folder


def octet(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_quantised_file_is_as_good(made, capsys):
    """Float, quantised and compiled: one accuracy, and the recipe of quantising is used without being said again."""
    results = {}
    for model in (FLOAT, made / "q.onnx", made / "q.so"):
        recipe = ["--scale", "1/256"] if model == FLOAT else []
        report = made / "report.json"
        assert octet("accuracy", model, "--data", IMAGES, "--json", report, "--reference", FLOAT, *recipe) == 0
        assert "(pixel * 0.00390625 - 0) / 1" in capsys.readouterr().err
        results[model.name] = json.loads(report.read_text())
    assert {result["engine"] for result in results.values()} == {"onnxruntime", "octet"}
    assert results["q.onnx"]["right"] == results["q.so"]["right"]
    assert results["q.so"]["top1"] >= results["digits_fp32.onnx"]["top1"] - 0.6
    assert results["q.so"]["agreement"] >= 99
    assert results["digits_fp32.onnx"]["agreement"] == 100


def test_what_quantize_says(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert octet("quantize", FLOAT, "--data", IMAGES, "--samples", 8, "--skip-last", 1, "--exclude", "stem") == 0
    out = capsys.readouterr().out
    assert "digits_fp32_q.onnx: 0.1 MB" in out
    assert "calibrated on 8 samples" in out
    assert "quantised: 8 of 10 layers with weights" in out
    assert "float: /stem/stem.0/stem.0.0/Conv (Conv)" in out
    assert describe_model("digits_fp32_q.onnx").preprocessing is not None


@pytest.mark.parametrize(
    ("arguments", "cost"),
    [([], r"[\d.]+ dB"), (["--max-drop", 100], r"[\d.]+ dB, -?[\d.]+ points")],
    ids=["SQNR", "and metric"],
)
def test_each_layer_alone(capsys, tmp_path, arguments, cost):
    """A budget that 8 bits meet gave no ranking, and with any budget neither gains nor warnings were printed."""
    given = ["--data", IMAGES, "--samples", 8, "--exclude", "blocks", "--sensitivity", "-o", tmp_path / "q.onnx"]
    assert octet("quantize", FLOAT, *given, *arguments) == 0
    out = capsys.readouterr().out
    assert "bias correction: SQNR of the outputs" in out
    assert "warning: calibrated on 8 samples" in out
    ranking = out.partition("what each layer loses alone, worst first:\n")[2].splitlines()
    quantised = int(re.findall(r"quantised: (\d+) of", out)[0])
    assert quantised > 1
    assert [re.fullmatch(f"  \\S+: {cost}", line) is not None for line in ranking[: quantised + 1]] == [
        *[True] * quantised,
        False,
    ]


def test_options_reach_the_quantiser(tmp_path):
    """Each option changes the file as its help says."""
    arguments = ["--data", IMAGES, "--samples", 4, "-o", tmp_path / "q.onnx", "--activations", "s8", "--symmetric",
                 "--weights", "per-tensor", "--weight-bits", 4, "--observer", "percentile",
                 "--observer-option", "percentile=99.5", "--outputs", "float"]  # fmt: skip
    assert octet("quantize", FLOAT, *arguments) == 0
    graph = onnx.load(tmp_path / "q.onnx").graph
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    activations = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert {values[node.input[2]].dtype for node in activations} == {np.dtype("int8")}
    assert {int(values[node.input[2]]) for node in activations} == {0}
    assert not [
        node for node in graph.node if graph.output[0].name in node.output and node.op_type == "DequantizeLinear"
    ]
    weights = [
        node for node in graph.node if node.op_type == "DequantizeLinear" and values.get(node.input[0]) is not None
    ]
    kernels = [node for node in weights if values[node.input[0]].ndim == 4]
    assert all(values[node.input[1]].size == 1 for node in kernels)
    assert all(np.abs(values[node.input[0]]).max() <= 8 for node in kernels)


def test_budget_keeps_layers_in_float(capsys, tmp_path):
    """At 2 bits the network is lost; the budget brings it back, and says by which layers."""
    output = tmp_path / "q.onnx"
    arguments = ["--data", IMAGES, "--samples", 60, "--weight-bits", 2, "--max-drop", 3, "-o", output]
    assert octet("quantize", FLOAT, *arguments) == 0
    out = capsys.readouterr().out
    kept = int(re.findall(r"(\d+) layers kept in float", out)[0])
    assert 0 < kept < 10
    assert out.count("  float: ") == kept
    assert "what each layer loses alone, worst first:" in out
    assert describe_model(output).preprocessing is not None


@pytest.fixture(scope="module")
def shifted(tmp_path_factory) -> tuple[Path, Path]:
    """The digits network with a further output in front of the scores, and data that counts the classes from 1."""
    folder = tmp_path_factory.mktemp("shifted")
    model = onnx.load(FLOAT)
    model.graph.output.insert(0, onnx.helper.make_tensor_value_info("doubled", onnx.TensorProto.FLOAT, ["N", 10]))
    model.graph.node.append(onnx.helper.make_node("Add", [model.graph.output[1].name] * 2, ["doubled"], name="double"))
    onnx.save(model, folder / "two.onnx")
    with np.load(IMAGES) as archive:
        chosen = archive["labels"] < 9
        np.savez(folder / "from1.npz", images=archive["images"][chosen], labels=archive["labels"][chosen] + 1)
    return folder / "two.onnx", folder / "from1.npz"


def test_budget_for_a_background_class_and_several_outputs(shifted, capsys, tmp_path):
    """The search compared 0 % with 0 % where classes are counted otherwise, and could not be told of the scores."""
    model, data = shifted
    arguments = ["quantize", model, "--data", data, "--samples", 40, "--max-drop", 3, "-o", tmp_path / "q.onnx"]
    assert octet(*arguments, "--label-offset", -1, "--output-name", "logits") == 0
    assert float(re.findall(r"top1: float ([\d.]+) %", capsys.readouterr().out)[0]) > 90
    for given, message in (
        (["--label-offset", -1], "name the scores (--output-name)"),
        (["--output-name", "logits"], "the float model gets none of 40 samples right"),
    ):
        assert octet(*arguments, *given) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-drop", "-1"], "give 0 or more"),
        (["--labels", "l.txt"], "--labels is only for --max-drop"),
        (["--label-offset", "0"], "--label-offset is only for --max-drop"),
        (["--output-name", "logits"], "--output-name is only for --max-drop"),
        (["--metric", "top1"], "--metric is only for --max-drop"),
        (["--max-drop", "1", "--table", "t.table"], "exclude each other"),
        (["--observer", "best"], "observer 'best' is unknown"),
        (["--observer-option", "percentile"], "write NAME=NUMBER"),
        (["--exclude", "("], "is no regular expression"),
        (["--samples", "0"], "0 samples"),
        (["--size", "8"], "takes 16 x 16 pixels"),
        (["--data", "none"], "there is no such file or folder"),
        (["-o", "none/q.onnx"], "none"),
        (["-o", "q.onnx", "--write-table", "q.onnx"], "the same file is read or written too, as q.onnx"),
        (["--write-table", "none/q.table"], "folder"),
        (["--write-table", "q.table", "--table-scales", "middle"], "table scales of 'middle': choose input or output"),
        (["--max-drop", "1", "--write-table", "q.table", "--table-scales", "middle"], "table scales of 'middle'"),
        (["--table-scales", "output"], "--table-scales is only for --table and --write-table"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_quantize_refuses(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    data = [] if "--data" in arguments else ["--data", IMAGES]
    assert octet("quantize", FLOAT, *data, *arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["--output", "--write-table"])
@pytest.mark.parametrize("kept", ["m.onnx", "data.npz", "t.table"])
def test_quantize_replaces_nothing_that_it_reads(capsys, tmp_path, monkeypatch, option, kept):
    monkeypatch.chdir(tmp_path)
    contents = {"m.onnx": FLOAT.read_bytes(), "data.npz": IMAGES.read_bytes(), "t.table": b""}
    for name, content in contents.items():
        Path(name).write_bytes(content)
    assert octet("quantize", "m.onnx", "--data", "data.npz", "--table", "t.table", option, kept) == 2
    assert f"the same file is read or written too, as {kept}" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == contents


def test_folder_with_an_unreadable_image(made, tmp_path, capsys):
    """Skipped, counted and said; the rest is measured."""
    with np.load(IMAGES) as archive:
        for i in range(11):
            Image.fromarray(archive["images"][i]).save(tmp_path / f"{i}.png")
        lines = [f"{i}.png {label}" for i, label in enumerate(archive["labels"][:11])]
    (tmp_path / "4.png").write_bytes(b"")
    (tmp_path / "labels.txt").write_text("\n".join(lines))
    assert octet("accuracy", made / "q.so", "--data", tmp_path, "--per-class") == 0
    captured = capsys.readouterr()
    assert "1 of 11 images left out" in captured.err
    assert "10 samples, 10 with a class" in captured.out
    assert "class  samples     right  wrongly" in captured.out


@pytest.fixture(scope="module")
def odd_labels(tmp_path_factory) -> dict[str, Path]:
    """Data whose labels are no classes: targets of a regression, one-hot rows, and names of classes in labels.txt."""
    folder = tmp_path_factory.mktemp("odd")
    with np.load(IMAGES) as archive:
        images, labels = archive["images"][:4], archive["labels"][:4]
    np.savez(folder / "targets.npz", images=images, y=labels / 2)
    np.savez(folder / "one_hot.npz", images=images, labels=np.eye(10)[labels])
    (folder / "named").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / "named" / f"{i}.png")
    (folder / "named" / "labels.txt").write_text("\n".join(f"{i}.png seven" for i in range(4)))
    return {path.stem: path for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["targets", "one_hot", "named"])
def test_labels_are_read_where_classes_count(made, odd_labels, capsys, tmp_path, name):
    """Quantising, comparing and timing stopped at labels that they do not need."""
    data, output = ["--data", odd_labels[name], "--samples", 4], tmp_path / "q.onnx"
    assert octet("quantize", FLOAT, *data, "-o", output) == 0
    assert octet("compare", FLOAT, made / "q.so", *data) == 0
    assert octet("bench", made / "q.so", *data, "--seconds", 0.1, "--warmup", 0) == 0
    for arguments in (["accuracy", FLOAT], ["quantize", FLOAT, "--max-drop", 1, "-o", output]):
        capsys.readouterr()
        assert octet(*arguments, *data) == 2
        assert "labels" in capsys.readouterr().err


def test_compare_a_library(made, capsys):
    reports = ["--json", made / "c.json", "--html", made / "c.html"]
    assert octet("compare", FLOAT, made / "q.so", "--data", IMAGES, "--samples", 4, *reports) == 0
    out = capsys.readouterr().out
    assert "the library's outputs and those of the model compared here are the same bits" in out
    assert "q.so for" in out
    assert json.loads((made / "c.json").read_text())["samples"] == 4
    assert (made / "c.html").read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("samples", "compared"), [([], 20), (["--samples", 7], 7), (["--samples", 25], 25)], ids=["default", "7", "25"]
)
def test_compare_a_library_of_batches(made, capsys, samples, compared):
    """16 samples by default did not fill a batch of 20, and the rest of more samples was left out."""
    library, report = made / "batch.so", made / "batch.json"
    assert octet("compile", made / "q.onnx", "--batch", 20, "-o", library) == 0
    assert octet("compare", FLOAT, library, "--data", IMAGES, "--json", report, *samples) == 0
    assert "the same bits" in capsys.readouterr().out
    assert json.loads(report.read_text())["samples"] == compared


@pytest.mark.parametrize(
    ("quantised", "arguments", "message"),
    [
        ("q.onnx", ["--model", "q.onnx"], "--model goes with a library"),
        ("q.so", ["--target", "llvm"], "--target goes with an ONNX file"),
        ("q.so", ["--model", str(FLOAT)], "was not compiled from"),
        ("none.so", [], "cannot read"),
    ],
    ids=["model", "target", "other model", "missing"],
)
def test_compare_refuses(made, capsys, quantised, arguments, message):
    assert octet("compare", FLOAT, made / quantised, "--data", IMAGES, *arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--json", "--html"])
@pytest.mark.parametrize("kept", ["q.onnx", "q.so", "link", "reports/", "none/r"])
def test_report_is_refused_before_the_work(made, tmp_path, capsys, monkeypatch, option, kept):
    """A report used to replace the model that it is about, or was found to have no folder when all was measured."""
    for name in ("q.onnx", "q.so"):
        (tmp_path / name).write_bytes((made / name).read_bytes())
    (tmp_path / "reports").mkdir()
    (tmp_path / "link").symlink_to("q.so")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.network.Network.__call__", None)
    verbs = ["accuracy", "compare"] if option == "--json" else ["compare"]
    for verb in verbs:
        models = [FLOAT, "q.so"] if verb == "compare" else ["q.so", "--reference", "q.onnx"]
        assert octet(verb, *models, "--data", IMAGES, option, kept) == 2
        assert f"cannot write {kept.rstrip('/')}: " in capsys.readouterr().err
    assert all((tmp_path / name).read_bytes() == (made / name).read_bytes() for name in ("q.onnx", "q.so"))


@pytest.mark.parametrize("verb", ["accuracy", "compare"])
def test_result_is_printed_even_if_it_cannot_be_written(made, capsys, monkeypatch, verb):
    """After minutes of work a full disk is no reason to say nothing."""

    def fail(path, _text):
        raise InputError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr(f"pipeline.cli.{verb}.write_text", fail)
    models = [FLOAT, made / "q.so"] if verb == "compare" else [made / "q.so"]
    assert octet(verb, *models, "--data", IMAGES, "--samples", 4, "--json", made / "r.json") == 2
    captured = capsys.readouterr()
    assert "top-1" in captured.out if verb == "accuracy" else "the same bits" in captured.out
    assert "No space left" in captured.err


def test_report_to_standard_output(made, capfd):
    assert octet("accuracy", made / "q.so", "--data", IMAGES, "--samples", 4, "--json", "/dev/stdout") == 0
    out = capfd.readouterr().out
    assert json.loads(out[out.index("{") :])["samples"] == 4
    assert out.index("top-1") < out.index("{")


def test_bench_on_real_data(made, capsys):
    assert octet("bench", made / "q.so", "--data", IMAGES, "--samples", 1, "--seconds", 0.1, "--warmup", 0) == 0
    captured = capsys.readouterr()
    assert "shorter side to 16" in captured.err
    assert "p50" in captured.out


def test_name_that_no_table_can_hold(tmp_path, capsys):
    """It was refused when the model had been calibrated and written; a layer that stays float is in no table."""
    net = Net().conv("x", "a").conv("a", "y", 4, 4)
    net.nodes[0].name = "first layer"
    path, data, table = net.file(tmp_path, "y"), tmp_path / "x.npy", tmp_path / "q.table"
    np.save(data, np.ones((2, 3, 8, 8), np.float32))
    arguments = ["quantize", path, "--data", data, "-o", tmp_path / "q.onnx", "--write-table", table]
    assert octet(*arguments) == 2
    assert "the layer name 'first layer_param_0' cannot be in a calibration table" in capsys.readouterr().err
    assert not (tmp_path / "q.onnx").exists()
    assert octet(*arguments, "--skip-first", 1) == 0
    assert [line.split()[0] for line in table.read_text().splitlines()] == ["y_node_param_0", "y_node"]


def test_what_fills_no_batch_is_not_counted(tmp_path, capsys):
    """It said that the model had been calibrated on 10 samples."""
    path, data = Net((4, 3, 8, 8)).conv("x", "y").file(tmp_path, "y"), tmp_path / "x.npy"
    np.save(data, np.zeros((10, 3, 8, 8), np.float32))
    assert octet("quantize", path, "--data", data, "-o", tmp_path / "q.onnx") == 0
    out = capsys.readouterr().out
    assert "all 8 calibration samples are equal" in out
    assert "calibrated on 8 samples\n" in out


def test_size_of_the_stored_recipe_binds_nobody(tmp_path, capsys):
    """A network that takes any size was tied to the one it had been quantised for; its library refused every image."""
    net = Net(("N", 3, "H", "W")).conv("x", "a").op("Relu", "a", "r").op("GlobalAveragePool", "r", "g")
    model = net.op("Flatten", "g", "f").gemm("f", "y", 4, 10).file(tmp_path, "y", ranks=(2,))
    photo = tmp_path / "photo.png"
    Image.fromarray(np.arange(40 * 30 * 3, dtype="uint32").astype("uint8").reshape(40, 30, 3)).save(photo)
    quantised, library = tmp_path / "q.onnx", tmp_path / "q.so"
    assert octet("quantize", model, "--data", photo, "--size", 8, "--resize", 10, "-o", quantised) == 0
    assert octet("compile", quantised, "--shape", "x=1,3,12,12", "-o", library) == 0
    capsys.readouterr()
    for recipe in ([], ["--size", 12]):
        assert octet("run", library, photo, *recipe) == 0
        assert "shorter side to 15, centre 12x12" in capsys.readouterr().err
    for verb, models in (("accuracy", [quantised, "--reference", model]), ("compare", [model, quantised])):
        assert octet(verb, *models, "--data", photo, "--size", 12) == 0
        assert "shorter side to 15, centre 12x12" in capsys.readouterr().err


def test_inspect_shows_the_recipe(made, capsys):
    assert octet("inspect", made / "q.so") == 0
    assert "images         shorter side to 16, centre 16x16, 1 channel" in capsys.readouterr().out
