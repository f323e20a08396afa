"""Integer lowering: from float operators between QuantizeLinear and DequantizeLinear to ``octet.*`` operators."""

from __future__ import annotations

import tvm
from tvm import relax

from pipeline.passes.integer.boundary import lower_boundaries
from pipeline.passes.integer.canonicalize import canonicalize
from pipeline.passes.integer.encode import encode_activations
from pipeline.passes.integer.float_results import lower_float_results
from pipeline.passes.integer.islands import HAS_INTEGER_FORM, lower_islands
from pipeline.passes.integer.merge import merge_elementwise
from pipeline.passes.integer.report import OperatorReport, Report, summarise, take_inventory
from pipeline.passes.integer.sink import sink_dequantize

__all__ = ["OperatorReport", "Report", "lower_to_integer"]


def lower_to_integer(module: tvm.IRModule, report: Report | None = None) -> tvm.IRModule:
    """Lower ``main`` to integer operators wherever its inputs and its result are quantised.

    Args:
        module: as ``relax.frontend.onnx.from_onnx`` gives it, parameters being constants and shapes static.
        report: filled with one entry an operator.

    Raises:
        ModelError: where a scale is not a positive finite number.
        UnsupportedOperatorError: where ``main`` has control flow.
    """
    report = Report() if report is None else report

    # 1. One form for what the importer writes in several.
    module = canonicalize(module)
    take_inventory(module, report)

    # 2. One type of activation, and codes moved about instead of the values that they stand for.
    module = encode_activations(module)
    module = sink_dequantize(module)

    # 3. Float operators between codes become integer operators.
    module = lower_islands(module, report)
    module = lower_float_results(module, report)
    module = merge_elementwise(module)

    # 4. The rest stays float, between octet.dequantize and octet.quantize.
    module = lower_boundaries(module)
    module = relax.transform.DeadCodeElimination(["main"])(module)
    summarise(module, report, HAS_INTEGER_FORM)
    return module
