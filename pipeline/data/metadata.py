"""What a model file says of itself: its inputs, and the preprocessing recipe stored in it."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.data.inputs import InputSpec
from pipeline.data.preprocessing import METADATA_KEY, Preprocessing
from pipeline.errors import InputError, LibraryError, ModelError
from pipeline.runtime import Manifest, read_manifest

if TYPE_CHECKING:
    from onnx import ModelProto

_ELF = b"\x7fELF"
OPTION = "preprocessing"
"""The key of the recipe among the options in a library's manifest."""


@dataclass(frozen=True)
class ModelDescription:
    """The inputs of a model, and the preprocessing recipe stored in it, if there is one."""

    inputs: tuple[InputSpec, ...]
    preprocessing: Preprocessing | None


def describe_model(path: str | os.PathLike[str]) -> ModelDescription:
    """What the ONNX file or the library at ``path`` takes. Runs none of its code.

    Raises:
        ModelError, LibraryError: it is neither, is damaged, or the stored recipe makes no sense.
        InputError: there is no such file.
    """
    path = Path(path)
    if is_library(path):
        manifest = read_manifest(path)
        return ModelDescription(tuple(map(InputSpec.of, manifest.inputs)), library_preprocessing(manifest))
    model = _read(path)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(_spec(value, path) for value in model.graph.input if value.name not in weights)
    return ModelDescription(inputs, stored_preprocessing(model))


def model_files(path: str | os.PathLike[str]) -> list[Path]:
    """The file of a model and those beside it with its weights; the first alone where it is no ONNX file."""
    path = Path(path)
    try:
        weights = _read(path).graph.initializer
    except ModelError:
        return [path]
    places = {entry.value for tensor in weights for entry in tensor.external_data if entry.key == "location"}
    return [path, *(path.parent / place for place in sorted(places) if "\0" not in place)]


def is_library(path: Path) -> bool:
    """Whether the file at ``path`` is a shared library; raises InputError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(4) == _ELF
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None


def library_preprocessing(manifest: Manifest) -> Preprocessing | None:
    """The recipe in the manifest of a library; raises LibraryError where it makes no sense."""
    recipe = manifest.options.get(OPTION)
    try:
        return None if recipe is None else Preprocessing.from_dict(recipe)
    except InputError as error:
        raise LibraryError(
            f"the manifest's option {OPTION!r} makes no sense: {error}; compile the model again"
        ) from None


def preprocessing_option(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What goes into a library's options for the ONNX file at ``path``: the recipe stored there, or nothing.

    Raises:
        ModelError: the file cannot be read, or the stored recipe makes no sense.
    """
    recipe = stored_preprocessing(_read(Path(path)))
    return {OPTION: json.loads(recipe.to_json())} if recipe else {}


def stored_preprocessing(model: ModelProto) -> Preprocessing | None:
    """The recipe in the metadata of ``model``; raises ModelError where it makes no sense."""
    texts = [entry.value for entry in model.metadata_props if entry.key == METADATA_KEY]
    try:
        return Preprocessing.from_json(texts[-1]) if texts else None
    except InputError as error:
        raise ModelError(f"metadata {METADATA_KEY!r} makes no sense: {error}; remove it or store it anew") from None


def store_preprocessing(path: str | os.PathLike[str], recipe: Preprocessing) -> None:
    """Put ``recipe`` into the metadata of the ONNX file at ``path``, in place of the one that was there.

    Raises:
        ModelError: the file cannot be read, or not written.
    """
    path = Path(path)
    model = _read(path)
    kept = [entry for entry in model.metadata_props if entry.key != METADATA_KEY]
    entries = sorted([(entry.key, entry.value) for entry in kept] + [(METADATA_KEY, recipe.to_json())])
    del model.metadata_props[:]
    for key, value in entries:
        model.metadata_props.add(key=key, value=value)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        partial.write_bytes(model.SerializeToString(deterministic=True))
        partial.replace(path)
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot write {path}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _read(path: Path) -> ModelProto:
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # noqa: BLE001 - protobuf has one exception for each of its implementations
        problem = error.strerror if isinstance(error, OSError) and error.strerror else "it is no ONNX file"
        raise ModelError(f"cannot read {path}: {problem}") from None
    if not model.graph.output:
        raise ModelError(f"{path} is no ONNX file, or is cut short: it has no outputs")
    return model


def _spec(value: Any, path: Path) -> InputSpec:
    from onnx import helper

    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        raise ModelError(f"{path}: input {value.name!r} has no shape")
    try:
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    except KeyError:
        raise ModelError(f"{path}: input {value.name!r} is no tensor of numbers") from None
    # Some exporters write -1 or 0 for an open dimension.
    shape = tuple(side.dim_value if side.dim_value > 0 else None for side in tensor.shape.dim)
    return InputSpec(value.name, shape, dtype)
