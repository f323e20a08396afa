"""The files written for ncnn, and the script where something is missing."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from experiments import ncnn_table, zoo
from experiments.ncnn_files import NcnnFiles
from pipeline.quantization import CalibrationTable
from tests.pipeline.quantization.networks import Net


def _net() -> Net:
    net = Net().conv("x", "a", 5).op("Relu", "a", "r").conv("r", "b", 2, 5, 1).conv("r", "c", 2, 5)
    return net.op("Concat", "b c", "y", axis=1)


def _table() -> CalibrationTable:
    rows = {"a_node": 5, "b_node": 2, "c_node": 2}
    return CalibrationTable({n: (100.0,) * count for n, count in rows.items()}, dict.fromkeys(rows, 20.0))


def test_layers_and_blobs(tmp_path):
    """ncnn refuses files whose counts are wrong; a tensor with two readers needs a Split."""
    param, _ = NcnnFiles(_net().model("y")).save(tmp_path / "m")
    magic, counts, *lines = param.read_text().splitlines()
    assert magic == "7767517"
    words = [line.split() for line in lines]
    assert [w[0] for w in words] == ["Input", "Convolution", "Split", "Convolution", "Convolution", "Concat"]
    assert "9=1" in words[1], "the Relu is part of the convolution"
    written = [name for w in words for name in w[4 + int(w[2]) : 4 + int(w[2]) + int(w[3])]]
    read = [name for w in words for name in w[4 : 4 + int(w[2])]]
    assert counts == f"{len(lines)} {len(written)}"
    assert len(set(written)) == len(written)
    assert sorted(read) == sorted(set(written) - {"y"})


def test_int8_weights_have_their_tag_padding_and_scales():
    net = _net()
    data = bytes(NcnnFiles(net.model("y"), _table()).data)
    weights = net.constants["w_a"]
    assert data[:4] == bytes.fromhex("384b0d00")
    codes = np.frombuffer(data, np.int8, weights.size, 4).reshape(weights.shape)
    assert np.abs(codes - np.clip(weights * 100, -127, 127)).max() <= 0.5 + 1e-4
    start = 4 + weights.size + -weights.size % 4
    floats = np.frombuffer(data, np.float32, 5 + 5 + 1, start)
    np.testing.assert_array_equal(floats[:5], np.float32(net.constants["b_a"]))
    np.testing.assert_array_equal(floats[5:], np.asarray([100] * 5 + [20], np.float32))


def test_convolution_hands_int8_on_where_only_convolutions_read_it():
    """As ncnn2int8 does: else every layer would go through floats, and ncnn be slower than it is."""
    lines = NcnnFiles(_net().model("y"), _table()).lines
    terms = [word for line in lines for word in line.split() if word.startswith("8=")]
    assert terms == ["8=101", "8=1", "8=1"]


def test_depthwise_clip_and_dense_are_written_for_ncnn():
    """What the networks of the speed comparison have besides."""
    lines = NcnnFiles(zoo.build("mobilenet_v2")).lines
    kinds = {line.split()[0] for line in lines}
    assert kinds == {
        "Input",
        "Convolution",
        "ConvolutionDepthWise",
        "Split",
        "BinaryOp",
        "Pooling",
        "Flatten",
        "InnerProduct",
    }
    assert any("-23310=2,0.0,6.0" in line and line.startswith("ConvolutionDepthWise") for line in lines)


def test_other_operators_are_refused():
    with pytest.raises(ValueError, match="Sigmoid"):
        NcnnFiles(Net().op("Sigmoid", "x", "y").model("y"))


def test_skips_without_ncnn_and_without_data(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "ncnn", None)
    assert ncnn_table.main([]) == 0
    assert "skipped: ncnn is not installed" in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "ncnn", object())
    assert ncnn_table.main(["--shared", str(tmp_path)]) == 0
    assert "skipped: " in capsys.readouterr().out


def test_report_counts_classes():
    logits = np.eye(4, dtype=np.float32)
    swapped = logits[[1, 0, 2, 3]]
    text = ncnn_table.report({"float": logits, "ncnn int8": swapped, "Octet int8": logits}, np.arange(4))
    assert "| float | 100.0 | 100.0 | - |" in text
    assert "| ncnn int8 | 50.0 | 50.0 | 0.0 |" in text
    assert "same class on 2 of 4 images" in text
