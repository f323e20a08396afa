"""com.microsoft QLinearAveragePool and QLinearGlobalAveragePool → DequantizeLinear, the pool, QuantizeLinear.

With channels_last=1 the integers are transposed to NCHW before the island and back after it, so that the island
itself stays DequantizeLinear → pool → QuantizeLinear.
"""

from __future__ import annotations

from pipeline.errors import ModelError
from pipeline.frontend.graph import Graph, Node
from pipeline.frontend.normalize._rewrite import Rewrite

_POOLS = {"QLinearAveragePool": "AveragePool", "QLinearGlobalAveragePool": "GlobalAveragePool"}


def expand_qlinear_pool(graph: Graph) -> None:
    """Rewrite both pools."""
    # Shape inference does not know the com.microsoft operators that are gone by now: what lies behind them has a rank
    # only from here on.
    if any(node.domain == "com.microsoft" and node.op_type in _POOLS for node in graph.nodes):
        graph.infer()
    graph.sweep(_expand)


def _expand(graph: Graph, node: Node) -> list[Node] | None:
    if node.domain != "com.microsoft" or node.op_type not in _POOLS:
        return None
    data, x_scale, x_zero, y_scale, y_zero = (node.input(i) for i in range(5))
    dtype = graph.dtype(data)
    rewrite = Rewrite(graph, node)
    channels_last = node.attr("channels_last", 0)
    rank = _rank(graph, node) if channels_last else 0
    if channels_last:
        to_first = [0, rank - 1, *range(1, rank - 1)]
        data = rewrite.op("Transpose", [data], {"perm": to_first}, "to_channels_first", dtype=dtype)
    value = rewrite.dequantize(data, x_scale, x_zero)
    value = rewrite.main(_POOLS[node.op_type], [value], drop=("channels_last",))
    rewrite.quantize(value, y_scale, y_zero, dtype)
    graph.declare(node.outputs[0], dtype, (None,) * rank if rank else None)
    if channels_last:
        quantized = graph.fresh_tensor_name(f"{node.name}_channels_first")
        rewrite.nodes[-1].outputs = [quantized]
        to_last = [0, *range(2, rank), 1]
        rewrite.op("Transpose", [quantized], {"perm": to_last}, "to_channels_last", output=node.outputs[0])
    return rewrite.nodes


def _rank(graph: Graph, node: Node) -> int:
    kernel = node.attr("kernel_shape")
    rank = len(kernel) + 2 if kernel else graph.rank(node.inputs[0])
    if rank is None:
        raise ModelError(f"node {node.name!r} ({node.op_type}): the rank of its input is not known.")
    return rank
