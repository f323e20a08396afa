"""From paths to samples: finds out what each file or folder is."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.data.cifar import cifar, refuse_pickle
from pipeline.data.images import SUFFIXES
from pipeline.data.labels import FILE_NAME, array_labels, as_labels, folder_classes, label_key, named_labels
from pipeline.data.mnist import idx, is_idx, labels_beside
from pipeline.data.sources import ONLY, Arrays, ImageFiles, Joined, Records, Source
from pipeline.data.streams import npy, npz
from pipeline.errors import InputError

IMAGE_KEYS = ("images", "image", "data", "x")
_KINDS = "a folder of images, images, .npy, .npz, an idx file of MNIST or a .bin file of CIFAR"


def find_samples(
    paths: Sequence[str | os.PathLike[str]],
    inputs: Sequence[str],
    labels: str | os.PathLike[str] | None = None,
    *,
    classes: bool = False,
) -> Source:
    """The samples of all ``paths``, one after the other, for a model with these input names.

    With ``classes`` also those that lie with the data (see :mod:`pipeline.data.labels`): what is called labels may be
    something else, which must not stop who needs none. ``labels`` is a file with the classes to take instead.

    Raises:
        InputError: there is no sample, a path is missing, or a file is damaged, of no known kind, or holds one array
            where the model has several inputs; or classes are asked for and damaged.
    """
    label_file = Path(labels) if labels is not None else None
    classes = classes or label_file is not None
    resolved = [Path(path) for path in paths]
    images = [path for path in resolved if path.suffix.lower() in SUFFIXES and not path.is_dir()]
    parts: list[Source] = [_images(images, label_file)] if images else []
    parts += [_find(path, inputs, label_file, classes) for path in resolved if path not in images]
    if not sum(map(len, parts)):
        raise InputError(f"no samples in {', '.join(map(str, resolved)) or 'nothing'}; give {_KINDS}")
    return parts[0] if len(parts) == 1 else Joined(parts)


def _find(path: Path, inputs: Sequence[str], labels: Path | None, classes: bool) -> Source:
    if path.is_dir():
        return _folder(path, inputs, labels, classes)
    if not path.is_file():
        raise InputError(f"cannot read {path}: there is no such file or folder")
    if path.suffix.lower() == ".npz":
        return _archive(path, inputs, labels, classes)
    source = _single_array(path, labels, classes)
    if len(inputs) > 1:
        raise InputError(
            f"{path} holds one array and the model has {len(inputs)} inputs ({', '.join(inputs)}): "
            "give an .npz with an array for each, by its name"
        )
    return source


def _single_array(path: Path, labels: Path | None, classes: bool) -> Source:
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return Arrays({ONLY: npy(path)}, array_labels(labels) if labels else None)
    if suffix == ".bin":
        return Records(*cifar(path))
    if is_idx(path):
        beside = labels or (labels_beside(path) if classes else None)
        return Arrays({ONLY: idx(path)}, array_labels(beside) if beside else None)
    refuse_pickle(path)
    raise InputError(f"{path} is of no known kind; give {_KINDS}")


def _images(paths: Sequence[Path], labels: Path | None) -> ImageFiles:
    """Images given one by one; ``labels`` names them as they are given, or by file name."""
    for path in paths:
        if not path.is_file():
            raise InputError(f"cannot read {path}: there is no such file")
    names = named_labels(labels) if labels else {}
    found = {path: names.get(str(path), names.get(path.name)) for path in paths}
    return ImageFiles(paths, {path: label for path, label in found.items() if label is not None})


def _folder(root: Path, inputs: Sequence[str], label_file: Path | None, classes: bool) -> Source:
    files = sorted(_visible_files(root))
    images = [path for path in files if path.suffix.lower() in SUFFIXES]
    if not images:
        return _only_archive(root, files, inputs, label_file, classes)
    if not classes:
        return ImageFiles(images)
    beside = label_file or root / FILE_NAME
    if label_file is None and not beside.is_file():
        return ImageFiles(images, folder_classes(root, images))
    listed = {root / name: label for name, label in named_labels(beside).items()}
    missing = sorted(path for path in listed if path not in set(images))  # counted as unreadable when they are read
    return ImageFiles([*images, *missing], listed)


def _visible_files(root: Path) -> Iterator[Path]:
    """All below ``root``, through links as well, but for what is hidden, such as copies in ``.ipynb_checkpoints``."""
    for folder, folders, names in os.walk(root, followlinks=True):
        here = Path(folder)
        folders[:] = [name for name in folders if not name.startswith(".") and not _leads_back(here / name)]
        yield from (path for name in names if not name.startswith(".") and (path := here / name).is_file())


def _leads_back(folder: Path) -> bool:
    """Whether it is a link to a folder on the way to it, or to one around that: a way without end."""
    target = folder.resolve() if folder.is_symlink() else None
    return target is not None and any(above.resolve().is_relative_to(target) for above in folder.parents)


def _only_archive(
    root: Path, files: Sequence[Path], inputs: Sequence[str], labels: Path | None, classes: bool
) -> Source:
    """The one file of arrays in a folder without images."""
    archives = [path for path in files if path.parent == root and _holds_samples(path)]
    if len(archives) == 1:
        return _find(archives[0], inputs, labels, classes)
    if archives:
        raise InputError(f"{root} holds {', '.join(path.name for path in archives)}: name the file you mean")
    for path in files:
        refuse_pickle(path)
    raise InputError(f"{root} holds no images; give {_KINDS}")


def _holds_samples(path: Path) -> bool:
    return path.suffix in (".npz", ".npy", ".bin") or (is_idx(path) and "label" not in path.name)


def _archive(path: Path, inputs: Sequence[str], label_file: Path | None, classes: bool) -> Source:
    streams = npz(path)
    key = label_key(list(streams))
    stored = streams.get(key) if key and key not in inputs else None
    labels = array_labels(label_file) if label_file else as_labels(stored) if stored and classes else None
    numbers = {name: stream for name, stream in streams.items() if stream is not None and stream is not stored}
    named = {name: numbers[name] for name in inputs if name in numbers}
    if len(named) == len(inputs):
        return Arrays(named, labels)
    candidates = [name for name in IMAGE_KEYS if name in numbers] or (list(numbers) if len(numbers) == 1 else [])
    if len(inputs) != 1 or not candidates:
        held = ", ".join(sorted(streams)[:20])
        raise InputError(f"{path} holds {held}; it needs an array named {' and one named '.join(inputs)}")
    return Arrays({ONLY: numbers[candidates[0]]}, labels)
