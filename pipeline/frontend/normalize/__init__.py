"""The rewrites that turn any accepted ONNX graph into QDQ form, in the order in which they run.

Each module holds one rewrite; its docstring lists what it does and does not touch. Every pass is a function of the
graph alone and may run twice without harm. Node names are kept, or derived (``conv1`` gives ``conv1_dq0``).
"""

from __future__ import annotations

from collections.abc import Callable

from pipeline.frontend.graph import Graph
from pipeline.frontend.limits import Limits
from pipeline.frontend.normalize.batch_norm import fold_batch_norm
from pipeline.frontend.normalize.canonical_qdq import canonicalize_qdq
from pipeline.frontend.normalize.constants import fold_constants, lift_constants
from pipeline.frontend.normalize.dynamic_quantize import expand_dynamic_quantize
from pipeline.frontend.normalize.explicit_padding import make_padding_explicit
from pipeline.frontend.normalize.gemm_weights import fold_gemm_transpose
from pipeline.frontend.normalize.identity import remove_identities
from pipeline.frontend.normalize.integer_ops import expand_integer_ops
from pipeline.frontend.normalize.microsoft_qdq import standardize_qdq
from pipeline.frontend.normalize.plain_operands import make_operands_plain
from pipeline.frontend.normalize.qgemm import expand_qgemm
from pipeline.frontend.normalize.qlinear_conv import expand_qlinear_conv
from pipeline.frontend.normalize.qlinear_elementwise import expand_qlinear_elementwise
from pipeline.frontend.normalize.qlinear_matmul import expand_qlinear_matmul
from pipeline.frontend.normalize.qlinear_pool import expand_qlinear_pool
from pipeline.frontend.normalize.quantized_constants import quantize_constants
from pipeline.frontend.normalize.resize_sizes import replace_resize_scales
from pipeline.frontend.normalize.weight_movement import move_weights_at_compile_time
from pipeline.frontend.quantization import check_quantization, check_types

PASSES: tuple[Callable[[Graph], None], ...] = (
    # 1. Constants: everything that is known becomes an initializer, so that the checks and rewrites below see it.
    lift_constants,
    remove_identities,
    fold_constants,
    check_quantization,
    # 2. Integer operators become float operators between DequantizeLinear and QuantizeLinear.
    standardize_qdq,
    expand_qlinear_conv,
    expand_qlinear_matmul,
    expand_qgemm,
    expand_qlinear_elementwise,
    expand_qlinear_pool,
    expand_integer_ops,
    expand_dynamic_quantize,
    canonicalize_qdq,
    check_types,
    # 3. Weights: DequantizeLinear(constant) right at their consumer; plain constants where an operand must be one.
    quantize_constants,
    make_operands_plain,
    fold_constants,
    check_quantization,
    move_weights_at_compile_time,
    fold_gemm_transpose,
    # 4. Operators that the compiler need not know.
    fold_batch_norm,
    make_padding_explicit,
    replace_resize_scales,
)


def normalize(graph: Graph, limits: Limits) -> None:
    """Run all passes in place. Raises :class:`pipeline.errors.ModelError` where the model contradicts itself."""
    graph.fold_budget = limits.max_folded_elements
    graph.infer()
    for rewrite in PASSES:
        rewrite(graph)
    graph.prune()
    graph.infer()
