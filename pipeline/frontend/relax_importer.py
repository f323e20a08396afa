"""TVM's ONNX importer with node names. The only module of the front end that imports TVM at its top."""

from __future__ import annotations

import contextlib
import io
import re
import threading
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import tvm
from onnx import ModelProto, ValueInfoProto, helper
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend

from pipeline.errors import ModelError, UnsupportedOperatorError

_FUNCTION = "main"

_IMPORTING = threading.Lock()
"""Output and warnings are redirected for the whole process: threads that did it at once would restore each other's."""


class _NamingImporter(onnx_frontend.ONNXGraphImporter):
    """Binds each node's result to a variable that carries the node's name.

    ``from_onnx`` leaves no trace of the ONNX names: it keeps results unbound until something uses them, and the block
    builder then calls them lv, lv1, ... The conversions themselves are TVM's, unchanged.
    """

    def __init__(self) -> None:
        super().__init__({}, None)
        self.node_names: dict[str, str] = {}
        self.current = ""

    def _convert_operator(self, op_name: str, inputs: list[Any], attrs: Mapping[str, Any], opset: int) -> Any:
        name = attrs["tvm_custom"]["name"]
        self.current = name
        result = super()._convert_operator(op_name, inputs, attrs, opset)
        if isinstance(result, relax.Var) and not any(result.same_as(x) for x in inputs if x is not None):
            self.node_names.setdefault(result.name, name)  # bound by the conversion itself, as Pad and Clip do
        if not isinstance(result, relax.Call):
            return result  # constants and tuples: binding them would hide their values from later conversions
        var = self.bb.emit(result, name_hint=_identifier(name))
        self.node_names[var.name] = name
        return var

    def type_of(self, tensor: str) -> str | None:
        """Element type and shape of what stands for an ONNX tensor, None where that is no tensor but a shape."""
        kind = self._nodes[tensor].ty
        if not isinstance(kind, relax.TensorType):
            return None
        sizes = "?" if kind.shape is None else (getattr(size, "value", size) for size in kind.shape)
        return _spelled(kind.dtype, sizes)


def to_relax(model: ModelProto) -> tuple[tvm.IRModule, dict[str, str]]:
    """(module, name of a Relax variable → name of its ONNX node). Raises :class:`ModelError` naming the node.

    Its subclass :class:`UnsupportedOperatorError` lists the nodes whose results have another type or shape in Relax.
    """
    importer = _NamingImporter()
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    printed = io.StringIO()
    try:
        # The importer prints what it fails on and warns of names it changes; the exception says it better.
        with _IMPORTING, contextlib.redirect_stdout(printed), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = importer.from_onnx(model.graph, opset)
    except Exception as error:  # TVM raises everything from AssertionError to TVMError
        if importer.current:
            with contextlib.suppress(Exception):
                importer.bb._end_block()  # else the block builder complains on stderr when it is destroyed
        kind = next((n.op_type for n in model.graph.node if n.name == importer.current), "graph")
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(f"node {importer.current!r} ({kind}) cannot be imported: {reason}") from error
    _check_results(importer, model)
    node_names = _with_helpers(module, importer.node_names)
    return relax.transform.CanonicalizeBindings()(module), node_names


def _check_results(importer: _NamingImporter, model: ModelProto) -> None:
    """Refuse nodes whose results are not what ONNX says: some conversions change the type, or ignore a setting."""
    expected = {value.name: _inferred(value) for value in (*model.graph.value_info, *model.graph.output)}
    wrong: dict[str, str] = {}
    causes: list[str] = []
    for node in model.graph.node:
        for name in node.output:
            found = importer.type_of(name) if name in expected else None
            if found is None or found == expected[name]:
                continue
            wrong[name] = f"{node.name!r} ({node.op_type}) makes {found} of {name!r}, which is {expected[name]}"
            if not any(source in wrong for source in node.input):
                causes.append(wrong[name])
    if causes:
        raise UnsupportedOperatorError(
            f"TVM's ONNX importer cannot express all of the model: {'; '.join(causes)}. "
            "Export the model without these settings or types, or cut the graph before them."
        )


def _inferred(value: ValueInfoProto) -> str:
    kind = value.type.tensor_type
    return _spelled(helper.tensor_dtype_to_np_dtype(kind.elem_type).name, (dim.dim_value for dim in kind.shape.dim))


def _spelled(dtype: Any, shape: Iterable[Any]) -> str:
    return f"{dtype}[{', '.join(str(size) for size in shape)}]"


def _with_helpers(module: tvm.IRModule, named: dict[str, str]) -> dict[str, str]:
    """Give unnamed bindings the name of the next named one in order: the node they were made for."""
    names: dict[str, str] = {}
    pending: list[str] = []
    for block in module[_FUNCTION].body.blocks:
        for binding in block.bindings:
            pending.append(binding.var.name)
            if isinstance(binding.value, relax.Var) and binding.value.name in names:
                # The importer's alias of a result as graph output; CanonicalizeBindings leaves one of the two.
                names[binding.var.name] = names[binding.value.name]
            if binding.var.name in named:
                names.update(dict.fromkeys(pending, named[binding.var.name]))
                pending.clear()
    return names


def _identifier(name: str) -> str:
    """A valid TVMScript identifier, so that dumps of the module can be read back, and not the function's own."""
    clean = re.sub(r"\W", "_", name, flags=re.ASCII)
    # Variables and functions share one supply of names: the function would become main1, and nothing would find it.
    starts_well = clean[:1].isalpha() or clean.startswith("_")
    return clean if starts_well and clean != _FUNCTION else f"n_{clean}"
