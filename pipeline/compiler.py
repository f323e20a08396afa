"""The compiler's two functions: :func:`compile` a model for a target, and :func:`inspect` what would run in integer."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import tvm
from onnx import numpy_helper
from tvm import relax

from pipeline import targets
from pipeline.data import InputSpec, Preprocessing
from pipeline.data.metadata import OPTION, model_files, preprocessing_option
from pipeline.data.preprocessing import fitted
from pipeline.errors import CompileError, UnsupportedOperatorError
from pipeline.frontend import ImportedModel, TensorSpec, import_model, load_model
from pipeline.outputs import check_output
from pipeline.package import package
from pipeline.passes.input_alignment import input_alignment
from pipeline.passes.integer import lower_to_integer
from pipeline.passes.integer.report import OperatorReport, Report
from pipeline.passes.kernel_lowering import KERNEL_LOWERING
from pipeline.passes.kernel_table import KernelTable
from pipeline.passes.lowering import IRDump, kernel_phases, run_phases
from pipeline.passes.separate_constants import SeparateConstants
from pipeline.runtime.manifest import Quantization, Signature, TensorInfo
from pipeline.targets import DeployTarget
from pipeline.tuning import RECORDS_FOLDER
from pipeline.tuning.records import find_records

__all__ = ["OperatorReport", "compile", "inspect"]

Progress = Callable[[str, float], None]

INTEGER = "integer"


@dataclass(frozen=True)
class _Lowered:
    """A model as integer operators, and what became of each operator of the file."""

    signature: Signature
    module: tvm.IRModule
    reports: list[OperatorReport]
    node_names: Mapping[str, str]


def compile(
    model: str | os.PathLike[str],
    target: str | DeployTarget = targets.NATIVE,
    *,
    output: str | os.PathLike[str],
    batch: int | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    pure_int8: bool = False,
    records: str | os.PathLike[str] | None = RECORDS_FOLDER,
    dump_ir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Compile a quantised ONNX model into one shared library.

    Args:
        model: the ONNX file, quantised (QDQ, QLinear* or *Integer operators).
        target: a name of :data:`pipeline.targets.PRESETS`, or "native" for the best that this CPU runs.
        output: the library to write; it appears whole or not at all.
        batch: value of a symbolic first dimension (1 if not given).
        shapes: full shape of an input, by its name, where the file leaves it open.
        pure_int8: refuse a model some of whose operators would run in float32.
        records: folder with what a schedule search found (see :func:`pipeline.tune`); None for the default schedules.
            The default is ``tuning_logs`` in the current folder, else beside the package; there need be none.
        dump_ir: folder for the module after each phase, as text.
        progress: called with the phase that starts and the share of the work done, 0 to 1.

    Returns:
        The path of the library; load it with :func:`pipeline.runtime.load`.

    Raises:
        ModelError: the file cannot be read or is not valid.
        UnsupportedOperatorError: operators that nobody supports, or float ones with ``pure_int8``.
        TargetError: no such target.
        TuneError: the records are damaged or of another target, or there are none in the folder that was named.
        CompileError: code generation or linking failed, ``output`` or ``dump_ir`` cannot be written, or ``output`` is
            the model.
    """
    tell = progress or (lambda _phase, _share: None)
    deploy = targets.resolve(target)
    check_output(output, keep=model_files(model), error=CompileError)
    found = find_records(deploy, records)
    dump = IRDump(Path(dump_ir) if dump_ir is not None else None)
    lowered = _lower(model, batch, shapes, dump, tell)
    recipe = _recipe(model, lowered.signature)
    if pure_int8:
        _refuse_float(lowered.reports)
    tell("schedule", 0.35)
    module = run_phases(lowered.module, kernel_phases(deploy, found.configure), dump)
    tell("generate code", 0.5)
    table, constants = KernelTable(), SeparateConstants()
    executable = _generate_code(module, deploy, table, constants)
    _check_results(table.module, lowered.signature)
    tell("link", 0.95)
    integer = sum(r.kind == INTEGER for r in lowered.reports)
    path = package(
        executable,
        deploy,
        lowered.signature,
        model_sha256=hashlib.sha256(Path(model).read_bytes()).hexdigest(),
        model_file=Path(model).name,
        output=output,
        integer_operators=integer,
        float_operators=len(lowered.reports) - integer,
        options={
            "batch": batch,
            "shapes": {k: list(v) for k, v in (shapes or {}).items()},
            "pure_int8": pure_int8,
            **recipe,
        },
        kernels=table.kernels(lowered.node_names),
        tuned_kernels=found.tuned,
        constants=constants.arrays,
        input_alignment=input_alignment(module),
    )
    tell("done", 1.0)
    return path


def inspect(
    model: str | os.PathLike[str], *, batch: int | None = None, shapes: Mapping[str, Sequence[int]] | None = None
) -> list[OperatorReport]:
    """Say of each operator of ``model`` whether it runs in integer arithmetic, and why.

    Raises:
        ModelError, UnsupportedOperatorError: as for :func:`compile`.
    """
    return _lower(model, batch, shapes, IRDump(None), lambda _phase, _share: None).reports


def lower_to_operators(model: str | os.PathLike[str], *, batch: int | None = None) -> tvm.IRModule:
    """The network as integer operators, before any of them has a kernel.

    Raises:
        ModelError, UnsupportedOperatorError: as for :func:`compile`.
    """
    return _lower(model, batch, None, IRDump(None), lambda _phase, _share: None).module


def _lower(
    model: str | os.PathLike[str],
    batch: int | None,
    shapes: Mapping[str, Sequence[int]] | None,
    dump: IRDump,
    tell: Progress,
) -> _Lowered:
    tell("read", 0.0)
    normalised = load_model(model, batch=batch, shapes=shapes)
    tell("import", 0.1)
    imported = import_model(normalised)
    dump.write("import", imported.module)
    tell("lower to integer", 0.2)
    report = Report()
    module = lower_to_integer(imported.module, report)
    dump.write("integer", module)
    types = {node.name: node.op_type for node in normalised.graph.node}
    reports = _by_node(report.entries, imported.node_names, types)
    return _Lowered(_signature(imported, normalised), module, reports, imported.node_names)


def _recipe(model: str | os.PathLike[str], signature: Signature) -> dict[str, Any]:
    """The recipe stored in the model, as an option of the library and for images of the size that the library takes."""
    stored = preprocessing_option(model)
    if not stored or len(signature.inputs) != 1:
        return stored
    recipe = fitted(Preprocessing.from_dict(stored[OPTION]), InputSpec.of(signature.inputs[0]))
    return {OPTION: json.loads(recipe.to_json())}


def _by_node(
    entries: Sequence[OperatorReport], node_names: Mapping[str, str], types: Mapping[str, str]
) -> list[OperatorReport]:
    """One report a node of the ONNX file, by its name and type: the importer makes several operators of some nodes.

    A node counts as integer where all its parts are; the first part that is not says why.
    """
    by_node: dict[str, OperatorReport] = {}
    for entry in entries:
        name = node_names.get(entry.name, entry.name)
        known = by_node.get(name)
        if known is None or (known.kind == INTEGER and entry.kind != INTEGER):
            by_node[name] = replace(entry, name=name, op_type=types.get(name, entry.op_type))
    return list(by_node.values())


def _refuse_float(reports: list[OperatorReport]) -> None:
    left = [r for r in reports if r.kind != INTEGER]
    if left:
        lines = "".join(f"\n  {r.name} ({r.op_type}): {r.reason}" for r in left)
        raise UnsupportedOperatorError(
            f"{len(left)} of {len(reports)} operators would run in float32; quantise them or compile without "
            f"pure_int8 (--pure-int8):{lines}"
        )


def _generate_code(
    module: tvm.IRModule, target: DeployTarget, table: KernelTable, constants: SeparateConstants
) -> tvm.runtime.Executable:
    tvm_target = target.tvm_target()
    try:
        with tvm_target, tvm.transform.PassContext(instruments=[table]):
            return tvm.compile(
                module, target=tvm_target, relax_pipeline=constants.pipeline(), tir_pipeline=KERNEL_LOWERING
            )
    except Exception as error:  # TVM raises many types, none of which means anything to a user
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise CompileError(f"code generation for {target.name} failed: {lines[-1]}") from error


def _check_results(module: tvm.IRModule, signature: Signature) -> None:
    """Refuse a library whose results are not what its manifest says: some kernels of TVM change the type."""
    result = module["main"].ret_ty
    types = result.fields if isinstance(result, relax.TupleType) else [result]
    for info, kind in zip(signature.outputs, types, strict=True):
        made = TensorInfo(info.name, tuple(int(size) for size in kind.shape), str(kind.dtype), info.quantization)
        if made != info:
            raise UnsupportedOperatorError(
                f"TVM computes one of the operators before output {info.name!r} in another type: its result would be "
                f"'{made}' instead of '{info}'. Put a Cast to float32 before that operator, or cut the graph there."
            )


def _signature(imported: ImportedModel, model: onnx.ModelProto) -> Signature:
    quantization = _boundary_quantization(model)

    def described(spec: TensorSpec) -> TensorInfo:
        return TensorInfo(spec.name, spec.shape, spec.dtype, quantization.get(spec.name))

    return Signature(tuple(map(described, imported.inputs)), tuple(map(described, imported.outputs)))


def _boundary_quantization(model: onnx.ModelProto) -> dict[str, Quantization]:
    """Scale and zero point of what a DequantizeLinear reads or a QuantizeLinear writes, where it has one of each.

    The caller asks for inputs and outputs only: these are the ones that are given and read as integers.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or any(
            n not in constants for n in node.input[1:]
        ):
            continue
        scale, zero_point = (numpy_helper.to_array(constants[name]) for name in node.input[1:3])
        if scale.size == 1 and zero_point.size == 1:
            name = node.input[0] if node.op_type == "DequantizeLinear" else node.output[0]
            found[name] = Quantization(float(scale.item()), int(zero_point.item()))
    return found
