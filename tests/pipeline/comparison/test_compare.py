"""A whole comparison on the digits network: the broken layer is found, and the reports are whole."""

from __future__ import annotations

import html.parser
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import pipeline
from pipeline.comparison import Comparison, compare, find_source
from pipeline.comparison.html import to_html
from pipeline.comparison.table import to_table
from pipeline.data import describe_model, load_data
from pipeline.errors import InputError, ModelError
from tests.pipeline.quantization.networks import Net, batches

DIGITS = Path(__file__).resolve().parents[3] / "examples" / "digits"
FLOAT, QDQ, IMAGES = DIGITS / "digits_fp32.onnx", DIGITS / "digits_qdq.onnx", DIGITS / "heldout.npz"
BROKEN = "/blocks/blocks.1/body/body.2/body.2.1/BatchNormalization_output_0"


def samples(count: int = 8):
    return load_data(IMAGES, describe_model(FLOAT).inputs, samples=count)


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    (folder / "digits_qdq.onnx").write_bytes(QDQ.read_bytes())
    return pipeline.compile(folder / "digits_qdq.onnx", output=folder / "digits.so")


@pytest.fixture(scope="module")
def result(library) -> Comparison:
    return compare(FLOAT, QDQ, samples(), library=library)


def broken_model(path: Path) -> Path:
    """The quantised network with a scale four times too small: the tensor saturates."""
    model = onnx.load(QDQ)
    for tensor in model.graph.initializer:
        if tensor.name == f"{BROKEN}_scale":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) / np.float32(4), tensor.name))
    onnx.save(model, path)
    return path


def test_sound_model(result):
    """All 16 tensors, worst first; probing the model changes none of its bits."""
    assert result.same_output is True
    assert (len(result.tensors), result.samples) == (16, 8)
    sqnr = [tensor.sqnr for tensor in result.tensors]
    assert sqnr == sorted(sqnr)
    assert sqnr[0] > 25
    assert sorted(tensor.position for tensor in result.tensors) == list(range(16))
    assert all(0 <= (tensor.statistics.saturation or 0) < 0.01 for tensor in result.tensors)


def test_final_tensor_is_that_of_the_library(result, library):
    """The figures are of the compiled model: recomputed here from the library and onnxruntime."""
    onnxruntime = pytest.importorskip("onnxruntime")
    session, model = onnxruntime.InferenceSession(FLOAT), pipeline.load(library)
    signal = noise = 0.0
    for inputs in samples():
        expected, actual = session.run(None, inputs)[0].astype("float64"), model(inputs)
        signal += float((expected**2).sum())
        noise += float(((actual - expected) ** 2).sum())
    (logits,) = [tensor for tensor in result.tensors if tensor.name == "logits"]
    assert logits.sqnr == pytest.approx(10 * np.log10(signal / noise), abs=0.01)


def test_short_batch_is_filled_up_and_counts_as_it_is(result, library):
    """A last batch of 2 used to be left out, and fewer samples than one batch to be an error."""
    source = library.parent / "digits_qdq.onnx"
    batched = pipeline.compile(source, output=library.parent / "batched.so", batch=3)
    data = load_data(IMAGES, describe_model(batched).inputs, samples=8)
    found = compare(FLOAT, source, data, library=batched)
    assert (found.samples, found.same_output) == (8, True)
    assert sorted((t.name, t.statistics.count, t.statistics.saturated) for t in found.tensors) == sorted(
        (t.name, t.statistics.count, t.statistics.saturated) for t in result.tensors
    )
    assert [t.sqnr for t in found.tensors] == pytest.approx([t.sqnr for t in result.tensors])


def test_open_sizes_are_those_of_the_samples(tmp_path):
    """The error named --shape, which `octet compare` has not."""
    net = Net(("N", 3, "H", "W")).conv("x", "a").op("Relu", "a", "r").conv("r", "y", 4, 4)
    path = net.file(tmp_path, "y")
    data = batches(2, (2, 3, 10, 6))
    file = pipeline.quantize(path, data, output=tmp_path / "q.onnx")
    result = compare(path, file, data)
    assert result.samples == 4
    assert {tensor.statistics.count for tensor in result.tensors} == {4 * 3 * 60, 4 * 4 * 60}


def test_culprit_is_named(tmp_path):
    """A range cut to a quarter is where the noise comes in, though later tensors are as noisy and amplify it."""
    result = compare(FLOAT, broken_model(tmp_path / "q.onnx"), samples())
    assert result.culprit is not None
    assert result.culprit.name == BROKEN
    assert (result.culprit.statistics.saturation or 0) > 0.02
    assert f"most noise comes in at {BROKEN}" in to_table(result)


def test_equalised_model_is_compared_with_the_float_model_equalised(tmp_path):
    """Else each channel inside is another multiple of the float model's, and every layer looks broken."""
    net = Net().conv("x", "a", 8).op("Relu", "a", "r").conv("r", "b", 6, 8).op("Relu", "b", "s").conv("s", "y", 4, 6)
    for name, spread in (("w_a", np.logspace(-1, 1, 8)), ("w_b", np.logspace(1, -1, 6))):
        net.constants[name] *= spread.astype(np.float32).reshape(-1, 1, 1, 1)
    path = net.file(tmp_path, "y")
    data = batches()
    options: dict[str, Any] = {"weights": "per-tensor", "bias_correction": False}
    file = pipeline.quantize(path, data, output=tmp_path / "q.onnx", equalize=True, **options)
    result = compare(path, file, [{"x": batch["x"][:1]} for batch in data])
    assert result.equalized
    assert len(result.tensors) == 4
    assert result.tensors[0].sqnr > 25
    assert "equalised first" in to_table(result)
    plain = pipeline.quantize(path, data, output=tmp_path / "p.onnx", **options)
    assert not compare(path, plain, [{"x": data[0]["x"][:1]}]).equalized


@pytest.mark.parametrize(
    ("options", "shown"), [({"outputs": "float"}, ["x", "r", "y"]), ({"skip_last": 1}, ["x", "y"])], ids=str
)
def test_output_in_float(tmp_path, options, shown):
    """What the model gives out, by which it is judged, was left out where the last layer stays float."""
    net = Net().conv("x", "a").op("Relu", "a", "r").conv("r", "y", 4, 4)
    path, data = net.file(tmp_path, "y"), batches()
    file = pipeline.quantize(path, data, output=tmp_path / "q.onnx", **options)
    result = compare(path, file, data)
    assert [tensor.name for tensor in sorted(result.tensors, key=lambda one: one.position)] == shown
    (output,) = [tensor for tensor in result.tensors if tensor.name == "y"]
    session = [pytest.importorskip("onnxruntime").InferenceSession(model) for model in (path, file)]
    x, y = (np.concatenate([one.run(None, batch)[0] for batch in data]).astype(np.float64) for one in session)
    assert output.sqnr == pytest.approx(10 * np.log10((x**2).sum() / ((y - x) ** 2).sum()), abs=0.1)
    assert output.statistics.histogram.sum() == 2 * x.size
    assert output.statistics.histogram[:, [0, -1]].max() < x.size / 10
    assert output.to_json()["scale"] is output.to_json()["saturation"] is None
    assert re.search(r"^y +Conv .* - +-$", to_table(result), re.MULTILINE)
    json.dumps(result.to_json(), allow_nan=False)
    Checker().feed(to_html(result))


def test_other_weights(tmp_path):
    """The table had one row, the input, which was blamed for all noise."""
    paths = []
    for seed in range(2):
        net = Net()
        net.rng = np.random.default_rng(seed)
        (tmp_path / str(seed)).mkdir()
        paths.append(net.conv("x", "a").op("Relu", "a", "r").conv("r", "y", 4, 4).file(tmp_path / str(seed), "y"))
    file = pipeline.quantize(paths[0], batches(), output=tmp_path / "q.onnx")
    with pytest.raises(ModelError, match=r"no layer of .*q.onnx has the weights of one of .*1/"):
        compare(paths[1], file, batches())


def test_table(result):
    lines = to_table(result, 5).splitlines()
    assert lines[0].split() == ["tensor", "operator", "SQNR", "dB", "adds", "cosine", "max", "error", "in", "steps",
                                "saturated"]  # fmt: skip
    assert lines[6] == "and 11 better ones; --all shows them"
    assert "the same bits" in lines[-1]
    assert len({len(line) for line in lines[1:6]}) == 1, "numbers are not below each other"


def test_json(result):
    text = json.dumps(result.to_json(), allow_nan=False)
    data = json.loads(text)
    assert data["same_output"] is True
    assert len(data["tensors"]) == 16
    assert data["tensors"][0]["sqnr_db"] <= data["tensors"][-1]["sqnr_db"]


class Checker(html.parser.HTMLParser):
    """Sees that tags are closed in order, and collects what a browser would fetch or follow."""

    VOID = ("meta", "line", "rect", "path")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.counts: dict[str, int] = {}

    def handle_starttag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        values = dict(attrs)
        self.ids |= {values["id"]} if "id" in values else set()
        self.links += [values[name] for name in ("href", "src") if name in values]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in self.VOID
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_page_needs_nothing_else(result):
    """One file: no script, nothing fetched; every link leads to a row of the table."""
    page = Checker()
    page.feed(to_html(result))
    assert not page.open
    assert not {"script", "link", "img", "iframe"} & page.counts.keys()
    assert set(page.links) == {f"#t{i}" for i in range(16)} == {f"#{name}" for name in page.ids}
    assert page.counts["svg"] == 2 + 16
    assert "nan" not in to_html(result).lower()


def test_names_cannot_break_the_page(result):
    """Names come from a model file, which may come from anywhere."""
    from dataclasses import replace

    evil = "<script>alert('x')</script>"
    tensors = tuple(replace(tensor, name=evil, operator=evil, op_type=evil) for tensor in result.tensors)
    assert "<script" not in to_html(replace(result, tensors=tensors, reference=evil, quantised=evil))


def test_source_of_a_library(library, tmp_path):
    assert find_source(library).name == "digits_qdq.onnx"
    lonely = tmp_path / "digits.so"
    lonely.write_bytes(library.read_bytes())
    with pytest.raises(InputError, match="name it with --model"):
        find_source(lonely)
    (tmp_path / "digits_qdq.onnx").write_bytes(FLOAT.read_bytes())
    with pytest.raises(InputError, match="name it with --model"):
        find_source(lonely)


def test_library_of_another_file(library):
    with pytest.raises(InputError, match="was not compiled from"):
        compare(FLOAT, FLOAT, samples(), library=library)


def test_float_model_twice():
    with pytest.raises(ModelError, match="no quantised tensor"):
        compare(FLOAT, FLOAT, samples())


def test_data_of_another_rank():
    with pytest.raises(InputError, match="has 3 dimensions; the model takes 4"):
        compare(FLOAT, QDQ, [{"image": np.zeros((1, 16, 16), np.float32)}])


def test_no_samples():
    with pytest.raises(InputError, match="no samples"):
        compare(FLOAT, QDQ, [])
