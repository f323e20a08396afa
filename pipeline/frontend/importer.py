"""Normalised ONNX to Relax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from pipeline.errors import ModelError
from pipeline.frontend.operators import IMPORTED, check_element_types, check_operators
from pipeline.runtime.manifest import DTYPES

if TYPE_CHECKING:
    import tvm


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of the model: name in the ONNX file, shape and numpy dtype name."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class ImportedModel:
    """A Relax module and what the ONNX file called things."""

    module: tvm.IRModule
    """``main`` takes the inputs in order and returns a Tensor, or a Tuple where there are several outputs."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    node_names: dict[str, str]
    """Name of a Relax variable to the name of the ONNX node whose result it holds. The variables of helper bindings
    that a node needs besides (the bias of a Conv, ...) are mapped to the same node."""

    @property
    def input_names(self) -> list[str]:
        """ONNX input names in the order of ``main``'s parameters."""
        return [spec.name for spec in self.inputs]

    @property
    def output_names(self) -> list[str]:
        """ONNX output names in the order of ``main``'s results."""
        return [spec.name for spec in self.outputs]


def import_model(model: ModelProto) -> ImportedModel:
    """Relax module of a model from :func:`pipeline.frontend.load_model`; weights become constants in it.

    Raises :class:`pipeline.errors.UnsupportedOperatorError` with all nodes that cannot be imported, and
    :class:`pipeline.errors.ModelError` with the node's name where the importer rejects one.
    """
    check_operators(model, IMPORTED)
    check_element_types(model)
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(_spec("input", value) for value in model.graph.input if value.name not in constants)
    outputs = tuple(_spec("output", value) for value in model.graph.output)

    from pipeline.frontend.relax_importer import to_relax

    module, node_names = to_relax(model)
    return ImportedModel(module, inputs, outputs, node_names)


def _spec(role: str, value: ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    shape = tuple(dim.dim_value for dim in tensor.shape.dim)
    if not tensor.elem_type or not tensor.HasField("shape") or any(size < 1 for size in shape):
        raise ModelError(
            f"{role} {value.name!r} has no static shape; give the model to pipeline.frontend.load_model first."
        )
    dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    if dtype not in DTYPES:
        raise ModelError(
            f"{role} {value.name!r} of the model holds {TensorProto.DataType.Name(tensor.elem_type).lower()}, "
            f"which a library cannot exchange. Export the model with one of {', '.join(DTYPES)} there."
        )
    return TensorSpec(value.name, shape, dtype)
