"""Reads the files that ``octet run`` is given."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.data.images import SUFFIXES
from pipeline.errors import InputError
from pipeline.runtime import TensorInfo

Array = npt.NDArray[Any]
ImageReader = Callable[[Path, TensorInfo], Array]
MAX_NPZ_BYTES = 2 << 30


def assign(texts: Sequence[str], inputs: Sequence[TensorInfo]) -> dict[str, list[Path]]:
    """Which files go to which input: ``NAME=FILE`` by name; bare files all to a lone input, else in order.

    Raises:
        InputError: a name is unknown, or an input gets nothing or too much.
    """
    files: dict[str, list[Path]] = {info.name: [] for info in inputs}
    bare: list[Path] = []
    for text in texts:
        name, equals, file = text.partition("=")
        if equals and name in files:
            files[name].append(Path(file))
        else:
            bare.append(Path(text))
    if len(bare) == 1 and bare[0].suffix == ".npz":
        for paths in files.values():
            paths.extend(bare if not paths else [])
    elif len(inputs) == 1:
        files[inputs[0].name] += bare
    else:
        empty = [paths for paths in files.values() if not paths]
        if len(bare) != len(empty):
            names = ", ".join(files)
            raise InputError(
                f"{len(texts)} inputs given and the model has {len(inputs)} ({names}): give one file for each, "
                "in this order or as NAME=FILE, or one .npz that holds all"
            )
        for paths, file_path in zip(empty, bare, strict=True):
            paths.append(file_path)
    return files


def read(path: Path, info: TensorInfo, image: ImageReader) -> Array:
    """The data for ``info`` from ``path``; a missing batch dimension is added where the batch is 1.

    Raises:
        InputError: there is no such file, its kind is unknown, or it is damaged.
    """
    suffix = path.suffix.lower()
    if not path.is_file():
        raise InputError(f"cannot read {path}: there is no such file")
    if suffix in SUFFIXES:
        return image(path, info)
    if suffix not in (".npy", ".npz"):
        raise InputError(f"cannot read {path}: give .npy, .npz or an image ({', '.join(sorted(SUFFIXES))})")
    try:
        array = _npz(path, info) if suffix == ".npz" else np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise InputError(f"cannot read {path}: {str(error).splitlines()[0] if str(error) else 'damaged'}") from None
    return array[None] if array.shape == info.shape[1:] and info.shape[:1] == (1,) else array


def _npz(path: Path, info: TensorInfo) -> Array:
    with zipfile.ZipFile(path) as archive:
        members = {member.filename.removesuffix(".npy"): member.file_size for member in archive.infolist()}
    name = info.name if info.name in members else next(iter(members), "")
    if info.name not in members and len(members) != 1:
        held = ", ".join(sorted(members)[:20]) or "nothing"
        raise InputError(f"{path} has no array {info.name!r}; it holds {held}")
    if members[name] > MAX_NPZ_BYTES:  # a few kilobytes of file may hold any amount
        raise InputError(f"{path}: array {name!r} has {members[name]} bytes; {MAX_NPZ_BYTES} is the most")
    with np.load(path, allow_pickle=False) as archive:
        array = archive[name]
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: {name!r} is not an array; write the file with np.savez")
    return array
