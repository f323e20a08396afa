"""Calibration tables: the text format, tables of models, and models quantised by tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

import pipeline
from pipeline.cli.main import main
from pipeline.errors import InputError, OctetError
from pipeline.quantization import CalibrationTable, table_of_model
from tests.pipeline.frontend.models import constants, run
from tests.pipeline.quantization.networks import Net, batches, sqnr

# -- the text --------------------------------------------------------------------------------------------------------


def test_reads_both_kinds_of_rows():
    table = CalibrationTable.parse("a/b_param_0 1.5 2e2 0\r\n\n  a/b\t.25 \nfc_param_0 3.\n")
    assert table.weights == {"a/b": (1.5, 200.0, 0.0), "fc": (3.0,)}
    assert table.activations == {"a/b": 0.25}


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("a 1\nb nan\n", 2, "'nan'"),
        ("a inf\n", 1, "'inf'"),
        ("a -1\n", 1, "'-1'"),
        ("a 0\n", 1, "'0'"),
        ("a 1e999\n", 1, "'1e999'"),
        ("a 1e-999\n", 1, "'1e-999'"),
        ("a_param_0 1 -0.5\n", 1, "'-0.5'"),
        ("a 1_0\n", 1, "'1_0'"),
        ("a ١\n", 1, "no scale"),
        ("a 0x10\n", 1, "'0x10'"),
        ("a 1\n\nhello\n", 3, "'hello'"),
        ("a 1 2\n", 1, "no row"),
        ("a_param_0\n", 1, "no row"),
        ("_param_0 1\n", 1, "no row"),
        ("mha_param_1 1 2\n", 1, "second set of weights"),
        ("a 1\nb 1\na 2\n", 3, "second row for 'a'"),
        ("a_param_0 1\na_param_0 1\n", 2, "second row for 'a_param_0'"),
        ("<html> <body>\n", 1, "'<body>'"),
    ],
    ids=lambda value: repr(value)[:24] if isinstance(value, str) else None,
)
def test_damaged_text_is_refused_with_the_line(text, line, part):
    with pytest.raises(InputError, match=f"line {line}: ") as error:
        CalibrationTable.parse(text)
    assert part in str(error.value)


def test_byte_order_mark(tmp_path):
    """Editors on Windows write one; it became a part of the first layer's name."""
    (tmp_path / "a.table").write_text("a 1\n", encoding="utf-8-sig")
    assert CalibrationTable.read(tmp_path / "a.table").activations == {"a": 1.0}


def test_a_long_line_is_not_repeated_in_the_message():
    with pytest.raises(InputError) as error:
        CalibrationTable.parse("x" * 100_000)
    assert len(str(error.value)) < 300


@given(st.text(alphabet="ab_param_01 .e-+\n\t\x00\u2028", max_size=60))
def test_any_text_gives_a_table_or_an_error_of_ours(text):
    try:
        table = CalibrationTable.parse(text)
    except OctetError:
        return
    assert CalibrationTable.parse(table.to_text()) == table


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a 1\n\xff\xfe 2\n", "line 2: not text"),
        (b"", "no rows"),
        (b"\n \n", "no rows"),
        (b"a" * ((16 << 20) + 1), "16 MiB"),
    ],
    ids=["binary", "empty", "blank", "huge"],
)
def test_files_that_are_no_tables(tmp_path, content, message):
    (tmp_path / "t.table").write_bytes(content)
    with pytest.raises(InputError, match=message):
        CalibrationTable.read(tmp_path / "t.table")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        CalibrationTable.read(tmp_path / "none.table")
    with pytest.raises(InputError, match="cannot be read"):
        CalibrationTable.read(tmp_path)
    with pytest.raises(InputError, match="cannot write"):
        CalibrationTable(activations={"a": 1.0}).write(tmp_path / "none" / "t.table")


def test_written_scales_come_back_to_the_last_bit_of_float32(tmp_path):
    values = np.random.default_rng(0).lognormal(0, 5, 200).astype(np.float32)
    table = CalibrationTable({"a": tuple(map(float, values))}, {"a": float(values[0])})
    again = CalibrationTable.read(table.write(tmp_path / "t.table"))
    assert np.array_equal(np.asarray(again.weights["a"], np.float32), values)
    assert [p.name for p in tmp_path.iterdir()] == ["t.table"]


@pytest.mark.parametrize("name", ["two words", "", "x" * 250, "tab\there"], ids=["blank", "empty", "long", "tab"])
def test_names_that_ncnn_would_misread_are_not_written(tmp_path, name):
    with pytest.raises(InputError, match="layer name"):
        CalibrationTable({name: (1.0,)}, {name: 1.0}).write(tmp_path / "t.table")
    assert not list(tmp_path.iterdir())


# -- tables of models ------------------------------------------------------------------------------------------------


def _net() -> Net:
    net = Net().conv("x", "a", 8).op("Relu", "a", "ra").conv("ra", "d", 8, 1, group=8).conv("d", "b", 6, 8)
    net.op("Clip", "b lo hi", "rb").constant("lo", 0.0).constant("hi", 3.0)
    return net.op("GlobalAveragePool", "rb", "m").op("Flatten", "m", "f").gemm("f", "y", 6, 5)


LAYERS = ["a_node", "d_node", "b_node", "y_node"]


@pytest.fixture
def model(tmp_path) -> Path:
    return _net().file(tmp_path, "y", ranks=(2,))


def _quantized(model: Path, **options) -> Path:
    return pipeline.quantize(model, batches(), output=model.with_name("q.onnx"), **options)


def _weights(model: Path) -> dict[str, np.ndarray]:
    graph = onnx.load(model).graph
    tensors = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    return {n.name: tensors[n.input[1]] for n in graph.node if n.name in LAYERS}


def test_weight_scales_are_127_over_absmax(model):
    table = table_of_model(_quantized(model))
    assert list(table.weights) == LAYERS
    for name, weight in _weights(model).items():
        absmax = np.abs(weight.reshape(len(weight), -1)).max(axis=1)
        np.testing.assert_allclose(table.weights[name], 127 / absmax, rtol=1e-6)


@pytest.mark.parametrize("scales_of", ["input", "output"])
def test_thresholds_of_ranges_that_were_seen(model, scales_of):
    """min-max ranges, asymmetric: the table has the end farther from zero; a clamp belongs to its layer."""
    table = table_of_model(_quantized(model, observer="minmax"), scales_of)
    tensors = ["x", "ra", "d", "m"] if scales_of == "input" else ["ra", "d", "rb", "y"]
    watched = onnx.load(model)
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in tensors)
    seen = zip(*(run(watched, feed) for feed in batches()), strict=True)
    for name, values in zip(LAYERS, seen, strict=True):
        largest = np.abs(np.concatenate(values)).max()
        assert 127 / table.activations[name] == pytest.approx(largest, rel=0.01)
    assert any(f"zero point of the {scales_of}" in note for note in table.notes)


def test_symmetric_steps_are_kept(model):
    table = table_of_model(_quantized(model, activations="s8", symmetric=True))
    assert table.notes == ()
    graph = onnx.load(model.with_name("q.onnx"))
    assert 1 / table.activations["a_node"] == pytest.approx(float(constants(graph)["x_scale"]), rel=1e-6)


def test_groups_get_one_scale_each(tmp_path):
    """ncnn reads as many scales as there are groups."""
    net = Net(("N", 4, 8, 8)).conv("x", "y", 8, 2, group=2)
    quantized = pipeline.quantize(net.file(tmp_path, "y"), batches(shape=(2, 4, 8, 8)), output=tmp_path / "q.onnx")
    table = table_of_model(quantized)
    absmax = np.abs(net.constants["w_y"].reshape(2, -1)).max(axis=1)
    np.testing.assert_allclose(table.weights["y_node"], 127 / absmax, rtol=1e-6)
    assert any("several scales in a group" in note for note in table.notes)


def test_layers_left_in_float_are_noted(model):
    table = table_of_model(_quantized(model, exclude="^b_node$"))
    assert "b_node" not in table.weights
    assert any("not in 8 bits" in note and "b_node" in note for note in table.notes)


@pytest.mark.parametrize("activations", ["u8", "s8"])
def test_zero_points_that_are_left_out(model, activations):
    """ONNX lets a zero point of 0 out; its type is then that of the stored values."""
    quantized = _quantized(model, activations=activations)
    before = table_of_model(quantized)
    graph = onnx.load(quantized)
    values = constants(graph)
    for node in graph.graph.node:
        if node.op_type == "DequantizeLinear" and not values[node.input[2]].any():
            del node.input[2]
    onnx.save(graph, quantized)
    assert table_of_model(quantized) == before


def test_a_float_model_has_no_table(model):
    with pytest.raises(InputError, match="quantise it first"):
        table_of_model(model)


# -- models by tables ------------------------------------------------------------------------------------------------


def _table() -> CalibrationTable:
    activations = {"a_node": 40.0, "d_node": 30.0, "b_node": 35.0, "y_node": 60.0}
    rows = {"a_node": 8, "d_node": 8, "b_node": 6, "y_node": 5}
    weights = {name: tuple(float(v) for v in 150 + np.arange(count)) for name, count in rows.items()}
    return CalibrationTable(weights, activations)


@pytest.mark.parametrize("scales_of", ["input", "output"])
@pytest.mark.parametrize("how", [{}, {"activations": "s8", "symmetric": True}], ids=["default", "symmetric"])
def test_a_table_comes_back_from_the_model_it_made(model, scales_of, how):
    quantized = _quantized(model, table=_table(), table_scales=scales_of, **how)
    again = table_of_model(quantized, scales_of)
    for name, scales in _table().weights.items():
        np.testing.assert_allclose(again.weights[name], scales, rtol=1e-6)
        assert again.activations[name] == pytest.approx(_table().activations[name], rel=1e-6)


def test_what_is_never_negative_starts_at_zero(model):
    """As s8 the table's threshold would take half of the steps of u8."""
    tensors = constants(onnx.load(_quantized(model, table=_table())))
    assert tensors["ra_zero_point"] == 0
    assert float(tensors["ra_scale"]) == pytest.approx(127 / 30 / 255, rel=1e-6)
    assert tensors["x_zero_point"] == 128
    assert float(tensors["x_scale"]) == pytest.approx(1 / 40, rel=1e-6)


def test_a_table_of_a_model_makes_a_model_as_good(model, tmp_path):
    file = table_of_model(_quantized(model)).write(tmp_path / "t.table")
    quantized = _quantized(model, table=file)
    (feed,) = batches(1, seed=5)
    assert sqnr(run(onnx.load(model), feed)[0], run(onnx.load(quantized), feed)[0]) > 25


@pytest.mark.parametrize("part", ["weights", "activations"])
def test_half_a_table(model, part):
    half = CalibrationTable(**{part: getattr(_table(), part)})
    again = table_of_model(_quantized(model, table=half))
    assert (again.weights["b_node"][0] == pytest.approx(150, rel=1e-6)) is (part == "weights")
    assert (again.activations["b_node"] == pytest.approx(35, rel=1e-6)) is (part == "activations")


def test_rows_go_by_order_where_no_name_is_known(model):
    renamed = {f"conv{i}": name for i, name in enumerate(LAYERS)}
    table = CalibrationTable(
        {new: _table().weights[old] for new, old in renamed.items()},
        {new: _table().activations[old] for new, old in renamed.items()},
    )
    again = table_of_model(_quantized(model, table=table))
    assert again.activations == pytest.approx(_table().activations, rel=1e-6)


def test_missing_and_left_over_rows_are_named(model):
    weights = {name.replace("b_node", "bee"): row for name, row in _table().weights.items()}
    with pytest.raises(InputError, match=r"without a row: 'b_node'\. Rows without a layer: 'bee'") as error:
        _quantized(model, table=CalibrationTable(weights, _table().activations))
    assert "4 layers" in str(error.value)


def test_rows_by_order_must_have_the_right_length(model):
    """Without names a table of another network must not pass."""
    rows = {f"l{i}": row for i, row in enumerate(reversed(list(_table().weights.values())))}
    with pytest.raises(InputError, match=r"row 'l0' has 5 scales, but the layer 'a_node' has 8 output channels"):
        _quantized(model, table=CalibrationTable(rows))


def test_layers_in_float_need_no_row(model):
    table = CalibrationTable({n: row for n, row in _table().weights.items() if n != "b_node"})
    again = table_of_model(_quantized(model, table=table, exclude="^b_node$"))
    assert "b_node" not in again.weights


def test_dead_channels_of_a_table_keep_their_own_step(model):
    """caffe-int8-convert-tools writes 0 for weights below 0.0001."""
    row = (0.0, *_table().weights["a_node"][1:])
    again = table_of_model(_quantized(model, table=CalibrationTable({**_table().weights, "a_node": row})))
    assert again.weights["a_node"][0] == pytest.approx(127 / np.abs(_weights(model)["a_node"][0]).max(), rel=1e-6)
    assert again.weights["a_node"][1] == pytest.approx(151, rel=1e-6)


def test_fewer_bits_keep_the_thresholds(model):
    """They used to keep the steps of 8 bits, which cut all weights off at 63/127 or 7/127 of their range."""
    rows = table_of_model(_quantized(model)).weights
    table = CalibrationTable({**rows, "a_node": (0.0, *rows["a_node"][1:])})
    wishes = {"layers": {"b_node": {"weight_bits": 4}}}
    again = table_of_model(_quantized(model, table=table, weight_bits=7, overrides=wishes))
    for name, weight in _weights(model).items():
        absmax = np.abs(weight.reshape(len(weight), -1)).max(axis=1)
        np.testing.assert_allclose(again.weights[name], (7 if name == "b_node" else 63) / absmax, rtol=1e-6)


def test_the_widest_of_several_rows_for_one_tensor(tmp_path):
    """Two layers read one tensor, which has one scale: the smaller would cut the other's values off."""
    net = Net().conv("x", "a").conv("x", "b").op("Add", "a b", "y")
    table = CalibrationTable(activations={"a_node": 20.0, "b_node": 10.0})
    quantized = pipeline.quantize(net.file(tmp_path, "y"), batches(), output=tmp_path / "q.onnx", table=table)
    assert table_of_model(quantized).activations == pytest.approx({"a_node": 10.0, "b_node": 10.0}, rel=1e-6)


def test_overrides_go_first(model):
    wishes = {"tensors": {"x": {"threshold": 2.0}}, "layers": {"a_node": {"weight_scale": 0.5}}}
    again = table_of_model(_quantized(model, table=_table(), overrides=wishes))
    assert 127 / again.activations["a_node"] == pytest.approx(2.0, rel=0.01)
    assert again.weights["a_node"] == pytest.approx([2.0] * 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"table_scales": "both"}, "choose input or output"), ({"equalize": True}, "leave out one of the two")],
    ids=["scales", "equalize"],
)
def test_options_that_make_no_sense(model, options, message):
    with pytest.raises(InputError, match=message):
        _quantized(model, table=_table(), **options)


# -- the command line ------------------------------------------------------------------------------------------------


def test_write_a_table_and_use_it(model, tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.concatenate([feed["x"] for feed in batches()]))
    arguments = ["quantize", str(model), "--data", str(tmp_path / "x.npy"), "-o", str(tmp_path / "q.onnx")]
    assert main([*arguments, "--write-table", str(tmp_path / "t.table")]) == 0
    assert "the scales of 4 layers" in capsys.readouterr().out
    written = CalibrationTable.read(tmp_path / "t.table")
    halved = CalibrationTable(written.weights, {name: s / 2 for name, s in written.activations.items()})
    halved.write(tmp_path / "half.table")
    assert main([*arguments, "--table", str(tmp_path / "half.table")]) == 0
    again = table_of_model(tmp_path / "q.onnx")
    assert again.activations == pytest.approx(dict(halved.activations), rel=1e-6)
    assert main([*arguments, "--table", str(model)]) != 0
    assert "line 1" in capsys.readouterr().err


# -- real ------------------------------------------------------------------------------------------------------------


@pytest.mark.shared
def test_published_table_of_squeezenet(shared_dir, tmp_path):
    """Our weight scales are the published ones within 1e-3, and exact where float16 did not cut the weights off.

    The published scales are 127 / absmax of the float32 weights. The model at hand keeps them as float16, rounded
    towards zero, by up to 2**-10 of the value: published * absmax lies between 127 * (1 - 2**-10) and 127.
    """
    source = shared_dir / "models" / "squeezenet1.1" / "model.onnx"
    published = CalibrationTable.read(shared_dir / "data" / "reference-tables" / "squeezenet_weight.table")
    image = {"data": np.random.default_rng(0).normal(0, 60, (1, 3, 227, 227)).astype(np.float32)}
    ours = table_of_model(pipeline.quantize(source, [image], output=tmp_path / "q.onnx"))
    assert list(ours.weights) == list(published.weights)
    for name, scales in published.weights.items():
        ratio = np.array(scales) / np.array(ours.weights[name])
        assert ratio.min() > 1 - 2**-10 - 1e-6
        assert ratio.max() < 1 + 1e-6
    weights = [numpy_helper.to_array(t) for t in onnx.load(source).graph.initializer if len(t.dims) == 4]
    assert all((w.astype(np.float16) == w).all() for w in weights)


@pytest.mark.shared
def test_published_table_drives_the_quantiser(shared_dir, tmp_path):
    source = shared_dir / "models" / "squeezenet1.1" / "model.onnx"
    file = shared_dir / "data" / "reference-tables" / "squeezenet_weight.table"
    image = {"data": np.random.default_rng(0).normal(0, 60, (1, 3, 227, 227)).astype(np.float32)}
    again = table_of_model(pipeline.quantize(source, [image], output=tmp_path / "q.onnx", table=file))
    published = CalibrationTable.read(file)
    assert again.activations == pytest.approx(dict(published.activations), rel=1e-6)
    for name, scales in published.weights.items():
        np.testing.assert_allclose(again.weights[name], scales, rtol=1e-6)
