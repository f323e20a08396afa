"""Rewrites of the float graph: same numbers, fewer tensors."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.quantization.model import load_float_graph
from tests.pipeline.quantization.networks import Net, batches, run


def _norm(net: Net, x: str, y: str, channels: int) -> Net:
    for name in ("gamma", "beta", "mean"):
        net.constant(name, net.rng.normal(size=channels))
    net.constant("variance", net.rng.uniform(0.1, 2, channels))
    return net.op("BatchNormalization", f"{x} gamma beta mean variance", y, epsilon=1e-3)


def _transposed(net: Net) -> Net:
    net.constant("w", net.rng.normal(size=(3, 4, 2, 2))).op("ConvTranspose", "x w", "up", strides=[2, 2])
    return _norm(net, "up", "y", 4)


def _matmul_add(net: Net) -> Net:
    net.constant("w", net.rng.normal(size=(8, 5))).constant("b", net.rng.normal(size=(1, 5)))
    return net.op("MatMul", "x w", "m").op("Add", "b m", "y")


def _scaled_gemm(net: Net) -> Net:
    net.constant("w", net.rng.normal(size=(5, 8))).constant("b", net.rng.normal(size=(1, 5)))
    return net.op("Gemm", "x w b", "y", transB=1, alpha=0.5, beta=3.0)


def _channel_constants(net: Net) -> Net:
    net.conv("x", "c").constant("m", net.rng.normal(size=(4, 1, 1))).constant("a", net.rng.normal(size=(1, 4, 1, 1)))
    net.constant("s", np.float32(0.1)).constant("d", np.float32(3))
    return net.op("Mul", "m c", "p").op("Add", "p a", "q").op("Sub", "q s", "r").op("Div", "r d", "y")


CASES = {
    "norm-behind-conv": (lambda net: _norm(net.conv("x", "c", bias=False), "c", "y", 4), 4, ["Conv"]),
    "norm-behind-transposed-conv": (_transposed, 4, ["ConvTranspose"]),
    "norm-in-front": (lambda net: _norm(net, "x", "n", 3).conv("n", "y"), 4, ["Conv", "Conv"]),
    "norm-behind-gemm": (lambda net: _norm(net.gemm("x", "g", 8, 5), "g", "y", 5), 2, ["Gemm"]),
    "norm-that-a-reader-shares": (
        lambda net: _norm(net.conv("x", "c"), "c", "n", 4).op("Add", "c n", "y"),
        4,
        ["Conv", "Conv", "Add"],
    ),
    "matmul-and-row": (_matmul_add, 2, ["Gemm"]),
    "gemm-factors": (_scaled_gemm, 2, ["Gemm"]),
    "channel-constants": (_channel_constants, 4, ["Conv"]),
    "sum-of-two": (lambda net: net.conv("x", "a").conv("x", "b").op("Sum", "a b", "y"), 4, ["Conv", "Conv", "Add"]),
}


@pytest.mark.parametrize("case", CASES)
def test_same_numbers(tmp_path, case):
    make, rank, left = CASES[case]
    shape = (2, 3, 8, 8) if rank == 4 else (2, 8)
    net = make(Net(("N", *shape[1:])))
    model = net.model("y", ranks=(rank,))
    graph, _ = load_float_graph(net.file(tmp_path, "y", ranks=(rank,)))
    assert [n.op_type for n in graph.nodes] == left
    (feed,) = batches(1, shape)
    reference, value = run(model, feed)[0], run(graph.to_model(), feed)[0]
    np.testing.assert_allclose(value, reference, rtol=1e-4, atol=1e-5)


def test_constant_of_another_axis_is_kept(tmp_path):
    """Four columns, four channels: a factor along the width is no factor of a channel."""
    net = Net(("N", 3, 4, 4)).conv("x", "c").constant("m", np.arange(4.0)).op("Mul", "c m", "y")
    graph, _ = load_float_graph(net.file(tmp_path, "y"))
    assert [n.op_type for n in graph.nodes] == ["Conv", "Mul"]


@pytest.mark.parametrize("shape", [(4, 1), (1, 1, 4), (4, 1, 1), (1,)], ids=str)
def test_sum_with_another_constant_than_a_row_is_kept(tmp_path, shape):
    """As many numbers as columns are no row of a bias: a column was added to other entries, a third axis was lost."""
    net = Net(("N", 8)).constant("w", np.ones((8, 4))).constant("b", np.ones(shape))
    net.op("MatMul", "x w", "m").op("Add", "m b", "y")
    graph, _ = load_float_graph(net.file(tmp_path, "y", ranks=(max(2, len(shape)),)))
    assert [n.op_type for n in graph.nodes] == ["MatMul", "Add"]


def test_shared_weights_keep_their_value(tmp_path):
    """Folding into one reader of a weight must not change the other."""
    net = Net().conv("x", "a").constant("two", np.float32(2)).op("Mul", "a two", "d")
    net.op("Conv", "x w_a b_a", "e", pads=[1, 1, 1, 1]).op("Sub", "d e", "y")
    model = net.model("y")
    graph, _ = load_float_graph(net.file(tmp_path, "y"))
    (feed,) = batches(1)
    np.testing.assert_allclose(run(graph.to_model(), feed)[0], run(model, feed)[0], rtol=1e-5, atol=1e-5)
