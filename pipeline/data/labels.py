"""Which class a sample is of: ``labels.txt``, one folder a class, or an array."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.data.inputs import Array
from pipeline.data.mnist import idx, is_idx
from pipeline.data.streams import ArrayStream, npy, npz, reading
from pipeline.errors import InputError

FILE_NAME = "labels.txt"
KEYS = ("labels", "label", "y")


def named_labels(path: Path) -> dict[str, int]:
    """File names and class indices from lines such as ``cat.jpg 281`` or ``cat.jpg, 281``; ``#`` starts a comment.

    Blanks and commas before the last separator belong to the name.

    Raises:
        InputError: the file cannot be read, or a line is something else.
    """
    labels: dict[str, int] = {}
    for number, line in enumerate(_lines(path), 1):
        name, comma, index = line.rpartition(",")
        if not (comma and index.strip().isdecimal()):
            name, index, *_ = *line.rsplit(maxsplit=1), ""
        if not (name.strip() and index.strip().isdecimal()):
            raise InputError(f"{path}, line {number}: {line!r:.80} is not a file name and a class index")
        labels[name.rstrip()] = int(index)
    return labels


def array_labels(path: Path) -> Array:
    """int64 class indices, one a sample, from ``.npy``, ``.npz``, an idx file or text with one number a line.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    if path.suffix == ".npy":
        return as_labels(npy(path))
    if path.suffix == ".npz":
        arrays = npz(path)
        key = label_key(list(arrays)) or (next(iter(arrays)) if len(arrays) == 1 else None)
        stream = arrays[key] if key else None
        if stream is None:
            raise InputError(f"{path} holds {', '.join(arrays)}; name the array of the labels {KEYS[0]!r}")
        return as_labels(stream)
    if is_idx(path):
        return as_labels(idx(path))
    lines = _lines(path)
    if not all(line.isdecimal() for line in lines):
        raise InputError(f"{path} does not hold one class index a line")
    return np.array(lines, np.int64)


def as_labels(stream: ArrayStream) -> Array:
    """The int64 class indices that an array holds; raises InputError where it holds something else."""
    if len(stream.shape) != 1 or stream.dtype.kind not in "iu":
        raise InputError(f"{stream} is {stream.dtype}{list(stream.shape)}; labels are one whole number a sample")
    return stream.all().astype(np.int64)


def label_key(names: Sequence[str]) -> str | None:
    """The name, of those of an ``.npz``, that means labels."""
    return next((key for key in KEYS if key in names), None)


def folder_classes(root: Path, paths: Sequence[Path]) -> dict[Path, int]:
    """The class of each image of ``root`` by the folder it is in, where every image is in a folder of its class.

    Folders named by numbers are the classes of these numbers; else the classes count the folders in order of name.
    Empty where images lie in ``root`` itself, or in one folder only, which tells nothing.

    Raises:
        InputError: classes are counted, and a folder without images leaves open whether it counts.
    """
    folders = [path.relative_to(root).parts[0] if len(path.relative_to(root).parts) > 1 else "" for path in paths]
    names = sorted(set(folders))
    if "" in names or len(names) < 2:
        return {}
    if all(name.isdecimal() for name in names):
        index = {name: int(name) for name in names}
    else:
        _refuse_empty_folders(root, names)
        index = {name: number for number, name in enumerate(names)}
    return {path: index[folder] for path, folder in zip(paths, folders, strict=True)}


def _refuse_empty_folders(root: Path, names: Sequence[str]) -> None:
    """Raise InputError where ``root`` has visible folders besides those in ``names``, which hold images."""
    folders = (path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    empty = sorted(set(folders) - set(names))
    if empty:
        raise InputError(
            f"{root} has one folder a class, and no images in {', '.join(empty[:10])}: remove what is no class; where "
            f"one has no samples, name the folders by the numbers of their classes, or list the images in {FILE_NAME}"
        )


def _lines(path: Path) -> list[str]:
    with reading(path):
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]
