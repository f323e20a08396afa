"""Products of matrices that come out the same to the last bit, however many threads the machine has.

numpy's go to a BLAS, which divides them by its number of threads, and where it cuts, the last bits differ. What is
chosen by such sums, such as the rounding of a weight, differs with them.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from onnx import TensorProto, helper

from pipeline.quantization.onnxruntime_session import Session

_TYPES = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``a @ b``, both of float32 or both of float64, as onnxruntime sums it on one thread."""
    (result,) = _session(str(a.dtype)).run({"a": a, "b": b})
    return result


@cache
def _session(dtype: str) -> Session:
    values = {name: helper.make_tensor_value_info(name, _TYPES[dtype], None) for name in ("a", "b", "y")}
    node = helper.make_node("MatMul", ["a", "b"], ["y"])
    graph = helper.make_graph([node], "product", [values["a"], values["b"]], [values["y"]])
    return Session(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
