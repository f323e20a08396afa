"""Runs a float model and its compiled quantised version side by side, and compares them tensor by tensor."""

from __future__ import annotations

import hashlib
import itertools
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, TensorProto, helper

import pipeline
from pipeline.comparison.matching import Pair, match_tensors
from pipeline.comparison.statistics import Statistics
from pipeline.data import Dataset, describe_model
from pipeline.data.metadata import is_library
from pipeline.errors import InputError, ModelError
from pipeline.frontend import Limits
from pipeline.frontend.loader import prepare_model
from pipeline.frontend.reader import read_model
from pipeline.network import Function, filled_up, onnxruntime_function, open_network
from pipeline.quantization.equalization import equalized_model
from pipeline.quantization.provenance import quantized_with
from pipeline.runtime import Manifest, read_manifest
from pipeline.targets import NATIVE

Array = npt.NDArray[Any]
Progress = Callable[[str, float], None]
_COMPILED = "::compiled"


@dataclass(frozen=True)
class TensorReport:
    """How one tensor of the compiled model differs from the float model's."""

    name: str
    operator: str
    op_type: str
    position: int
    """In the order of the network, from 0."""
    sqnr: float
    added: float
    """Noise power that comes in here, as a part of the signal's: against what the float operators make of the compiled
    model's own tensors before this one."""
    statistics: Statistics

    def to_json(self) -> dict[str, Any]:
        """The figures as JSON values; None for what only a tensor that is stored as integers has."""
        found = self.statistics
        steps, quantised = found.max_error_steps, found.quantised
        return {
            "name": self.name,
            "operator": self.operator,
            "op_type": self.op_type,
            "position": self.position,
            "sqnr_db": round(self.sqnr, 4),
            "added_noise": round(self.added, 8),
            "cosine": round(found.cosine, 8),
            "max_error": found.max_error,
            "max_error_steps": None if steps is None else round(steps, 4),
            "saturation": found.saturation,
            "scale": None if quantised is None else [float(scale) for scale in quantised.scale],
            "zero_point": None if quantised is None else [int(zero) for zero in quantised.zero_point],
            "elements": found.count,
        }


@dataclass(frozen=True)
class Comparison:
    """All tensors, worst first, and what the comparison was made on."""

    reference: str
    quantised: str
    target: str
    samples: int
    tensors: tuple[TensorReport, ...]
    unmatched_quantised: int
    unmatched_reference: int
    equalized: bool
    """Whether the float model was equalised first, as the quantised one was, which scales channels inside it."""
    same_output: bool | None
    """Whether the library that was given has the same outputs, bit for bit; None if none was given."""

    @property
    def culprit(self) -> TensorReport | None:
        """The tensor at which most noise comes in."""
        return max(self.tensors, key=lambda tensor: tensor.added, default=None)

    def to_json(self) -> dict[str, Any]:
        """Everything but the histograms as JSON values."""
        names = "reference quantised target samples unmatched_quantised unmatched_reference equalized same_output"
        head = {name: getattr(self, name) for name in names.split()}
        culprit = self.culprit
        return {
            **head,
            "culprit": culprit.name if culprit else None,
            "tensors": [tensor.to_json() for tensor in self.tensors],
        }


def compare(
    reference: str | os.PathLike[str],
    quantised: str | os.PathLike[str],
    data: Dataset | Iterable[Mapping[str, Array]],
    *,
    library: str | os.PathLike[str] | None = None,
    target: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Compare the float ONNX file ``reference`` with ``quantised``, an ONNX file made from it, once compiled.

    The quantised model is compiled with all its quantised tensors as further outputs; its own are compared even where
    they are float. Octet computes the same bits however operators are fused, so these are the tensors of the compiled
    model. With ``library``, which must have been compiled from ``quantised``, the target is the library's and its
    outputs are compared with those bit for bit.

    A file that Octet's quantiser equalised is compared with the float model equalised in the same way.

    ``data`` gives batches by input name; of how many samples, the library or the models say. Sizes that these
    leave open are those of the first batch. A short batch is filled up, and counts as it is.
    ``target`` is this machine by default.

    Raises:
        ModelError: a file cannot be read, or is not what it should be (not quantised, no layer matches).
        InputError: the data does not fit, ``library`` comes from another file, or there is NaN in a tensor.
        TargetError, CompileError, UnsupportedOperatorError: as :func:`pipeline.compile` raises them.
    """
    tell = progress or (lambda _phase, _share: None)
    manifest = _checked_manifest(library, quantised) if library is not None else None
    tell("reading", 0.0)
    batches = _batches(data)
    first = next(batches, None)
    if not first:
        raise InputError("there are no samples to compare on")
    batch = _fixed_batch(library or quantised) or _fixed_batch(reference) or _count(first)
    source = read_model(quantised, Limits())
    equalized = bool(quantized_with(source).get("equalize"))
    quantised_model = _prepared(source, filled_up(first, batch))
    float_source = equalized_model(reference) if equalized else read_model(reference, Limits())
    float_model = _prepared(float_source, filled_up(first, batch))
    matching = match_tensors(float_model, quantised_model)
    if not any(pair.quantised for pair in matching.pairs):
        raise ModelError(
            f"no quantised tensor of {quantised} has a counterpart in {reference}: is the first quantised, and made "
            "from the second?"
        )
    if not matching.related:
        raise ModelError(
            f"no layer of {quantised} has the weights of one of {reference}: give the float model that it was made from"
        )
    expected = _float_function(float_model, matching.pairs, threads)
    isolated = _isolated_function(float_model, matching.pairs, threads)
    shared = open_network(library, threads) if library is not None else None
    compiled_for = manifest.target if manifest else (target or NATIVE)
    with tempfile.TemporaryDirectory(prefix="octet-compare-") as folder:
        actual, compiled_for = _probed(quantised_model, matching.pairs, compiled_for, Path(folder), threads, tell)
        statistics = [Statistics(pair.reference, pair.quantised) for pair in matching.pairs]
        samples, same_output = 0, None if shared is None else True
        total = len(data) if isinstance(data, Sized) else None
        for given in itertools.chain([first], batches):
            inputs = filled_up(given, batch)
            found = actual(_renamed(inputs, quantised_model))
            wanted = expected(_renamed(inputs, float_model))
            alone = isolated({**wanted, **_compiled_values(matching.pairs, wanted, found)})
            for pair, one in zip(matching.pairs, statistics, strict=True):
                values = wanted[pair.reference], found[pair.counterpart], alone[pair.reference]
                one.update(*_first_samples(values, _count(given), batch))
            if shared is not None:
                same_output = same_output and all(
                    np.array_equal(value, found[name], equal_nan=True)
                    for name, value in shared(_renamed(inputs, quantised_model)).items()
                )
            samples += _count(given)
            tell("comparing", 0.5 + 0.5 * min(1.0, samples / total if total else 0.0))
    return Comparison(
        reference=Path(reference).name,
        quantised=Path(library if library is not None else quantised).name,
        target=compiled_for,
        samples=samples,
        tensors=_reports(matching.pairs, statistics),
        unmatched_quantised=matching.unmatched_quantised,
        unmatched_reference=matching.unmatched_reference,
        equalized=equalized,
        same_output=same_output,
    )


def find_source(library: str | os.PathLike[str]) -> Path:
    """The ONNX file from which ``library`` was compiled, if it is beside it or in the current folder.

    Raises:
        LibraryError: the library is damaged.
        InputError: there is no such file.
    """
    library = Path(library)
    manifest = read_manifest(library)
    for folder in (library.parent, Path()):
        path = folder / Path(manifest.model_file).name
        if manifest.model_file and path.is_file() and _sha256(path) == manifest.model_sha256:
            return path
    raise InputError(
        f"{library} was compiled from {manifest.model_file or 'an unnamed file'}, which is not beside it; the tensors "
        "inside a library can only be compared with that file: name it with --model"
    )


def _batches(data: Dataset | Iterable[Mapping[str, Array]]) -> Iterator[Mapping[str, Array]]:
    """The batches, of a data set the last, short one as well."""
    return (batch.inputs for batch in data.batches()) if isinstance(data, Dataset) else iter(data)


def _fixed_batch(path: str | os.PathLike[str]) -> int | None:
    """The batch that a model is made for, or None for any."""
    return next((spec.batch for spec in describe_model(path).inputs), None)


def _count(inputs: Mapping[str, Array]) -> int:
    return len(next(iter(inputs.values())))


def _first_samples(tensors: tuple[Array, Array, Array], count: int, batch: int) -> tuple[Array, Array, Array]:
    """The first ``count`` of ``batch`` samples, unless the first dimension of one of the tensors is something else."""
    if any(not tensor.ndim or len(tensor) != batch for tensor in tensors):
        return tensors
    expected, actual, isolated = tensors
    return expected[:count], actual[:count], isolated[:count]


def _prepared(model: ModelProto, inputs: Mapping[str, Array]) -> ModelProto:
    """``model``, normalised, with the sizes of ``inputs`` where it leaves sizes open.

    Raises:
        InputError: the inputs have other names or another number of dimensions.
    """
    shapes = {}
    for name, array in _renamed(inputs, model).items():
        (dims,) = (value.type.tensor_type.shape.dim for value in model.graph.input if value.name == name)
        if len(dims) != array.ndim:
            raise InputError(f"the data for input {name!r} has {array.ndim} dimensions; the model takes {len(dims)}")
        shapes[name] = [
            dim.dim_value if dim.dim_value > 0 else size for dim, size in zip(dims, array.shape, strict=True)
        ]
    return prepare_model(model, None, shapes, Limits())


def _checked_manifest(library: str | os.PathLike[str], quantised: str | os.PathLike[str]) -> Manifest:
    if not is_library(Path(library)):
        raise InputError(f"{library} is not a library")
    manifest = read_manifest(Path(library))
    if _sha256(Path(quantised)) != manifest.model_sha256:
        raise InputError(
            f"{library} was not compiled from {quantised} (their sha256 differ) but from "
            f"{manifest.model_file or 'an unnamed file'}; give that file, or compile this one"
        )
    return manifest


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None


def _float_function(model: ModelProto, pairs: Sequence[Pair], threads: int | None) -> Function:
    """What gives the tensors of the float model that have a counterpart."""
    inputs = {value.name for value in model.graph.input}
    wanted = [pair.reference for pair in pairs if pair.reference not in inputs]
    _, function = onnxruntime_function(_with_outputs(model, wanted), threads, wanted)
    return lambda arrays: {**arrays, **(function(arrays) if wanted else {})}


def _isolated_function(model: ModelProto, pairs: Sequence[Pair], threads: int | None) -> Function:
    """What gives each tensor of ``pairs`` as the float operators compute it from the compiled model's tensors.

    Takes the compiled tensors under the names of the float model's plus :data:`_COMPILED`, and the model's inputs.
    """
    matched = {pair.reference for pair in pairs}
    inputs = [value.name for value in model.graph.input]
    computed = [pair.reference for pair in pairs if pair.reference not in inputs]
    cut = _with_outputs(model, computed)
    read = {name for node in cut.graph.node for name in node.input if name in matched}
    for node in cut.graph.node:
        node.input[:] = [name + _COMPILED if name in matched else name for name in node.input]
    del cut.graph.input[:]
    cut.graph.input.extend(value for value in model.graph.input if value.name not in matched)
    cut.graph.input.extend(
        helper.make_tensor_value_info(name + _COMPILED, TensorProto.FLOAT, None) for name in sorted(read)
    )
    wanted = {value.name for value in cut.graph.input}
    _, function = onnxruntime_function(cut, threads, computed)

    def call(arrays: Mapping[str, Array]) -> dict[str, Array]:
        given = {name: arrays[name] for name in inputs if name in matched}
        fed = {name: value for name, value in arrays.items() if name in wanted}
        return {**given, **(function(fed) if computed else {})}

    return call


def _compiled_values(
    pairs: Sequence[Pair], expected: Mapping[str, Array], found: Mapping[str, Array]
) -> dict[str, Array]:
    """The compiled tensors in the shapes that the float model has for them."""
    return {
        pair.reference + _COMPILED: np.resize(found[pair.counterpart], expected[pair.reference].shape) for pair in pairs
    }


def _probed(
    model: ModelProto, pairs: Sequence[Pair], target: str, folder: Path, threads: int | None, tell: Progress
) -> tuple[Function, str]:
    """What gives the quantised tensors, and the outputs, of the compiled model; and the target's full name."""
    path = folder / "probed.onnx"
    onnx.save(_with_outputs(model, [pair.counterpart for pair in pairs]), path)
    library = pipeline.compile(
        path, target, output=folder / "probed.so", progress=lambda phase, share: tell(f"compiling: {phase}", share / 2)
    )
    network = open_network(library, threads)
    return network, read_manifest(library).target


def _with_outputs(model: ModelProto, names: Iterable[str]) -> ModelProto:
    """A copy of ``model`` that also gives out the float tensors ``names``."""
    types = {value.name: value for value in model.graph.value_info}
    present = {value.name for value in model.graph.output}
    probed = ModelProto()
    probed.CopyFrom(model)
    for name in dict.fromkeys(names):
        if name not in present:
            info = types.get(name) or helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
            probed.graph.output.append(info)
    return probed


def _renamed(inputs: Mapping[str, Array], model: ModelProto) -> dict[str, Array]:
    """``inputs`` under the names that ``model`` has for them; a lone input may have another name."""
    weights = {tensor.name for tensor in model.graph.initializer}
    names = [value.name for value in model.graph.input if value.name not in weights]
    if len(names) == len(inputs) == 1:
        return {names[0]: next(iter(inputs.values()))}
    if set(names) != set(inputs):
        raise InputError(f"the data holds {', '.join(inputs)}; the model takes {', '.join(names)}")
    return dict(inputs)


def _reports(pairs: Sequence[Pair], statistics: Sequence[Statistics]) -> tuple[TensorReport, ...]:
    """Worst first."""
    reports = [
        TensorReport(pair.reference, pair.operator, pair.op_type, position, one.sqnr, one.added, one)
        for position, (pair, one) in enumerate(zip(pairs, statistics, strict=True))
    ]
    return tuple(sorted(reports, key=lambda report: (report.sqnr, report.position)))
