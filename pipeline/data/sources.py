"""Where samples come from: each kind of file as one numbered sequence, read in ascending order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.data.inputs import Array
from pipeline.data.streams import ArrayStream
from pipeline.errors import InputError

ONLY = ""
"""Stands for the name of the input where a model has one only."""


@dataclass(frozen=True)
class Item:
    """One sample as it is stored: an image file, or an array for each input by name."""

    name: str
    content: Path | Mapping[str, Array]
    label: int | None = None


class Source(ABC):
    """Numbered samples."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def items(self, indices: Sequence[int]) -> Iterator[Item]:
        """The samples of ``indices``, which ascend.

        Raises:
            InputError: a file is damaged as a whole. A single image is read later, by whoever gets its path.
        """

    @property
    @abstractmethod
    def labelled(self) -> bool:
        """Whether at least some samples have a label."""


@dataclass(frozen=True)
class ImageFiles(Source):
    """Image files, and the classes of those that have one."""

    paths: Sequence[Path]
    labels: Mapping[Path, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.paths)

    def items(self, indices: Sequence[int]) -> Iterator[Item]:
        for index in indices:
            path = self.paths[index]
            yield Item(str(path), path, self.labels.get(path))

    @property
    def labelled(self) -> bool:
        return bool(self.labels)


@dataclass(frozen=True)
class Arrays(Source):
    """One array for each input, their first dimension the sample.

    Raises:
        InputError: the arrays, or the labels, are not equally many.
    """

    streams: Mapping[str, ArrayStream]
    labels: Array | None = None

    def __post_init__(self) -> None:
        lengths = {str(stream): len(stream) for stream in self.streams.values()}
        if self.labels is not None:
            lengths["labels"] = len(self.labels)
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"{name}: {count}" for name, count in lengths.items())
            raise InputError(f"not the same number of samples: {counts}")

    def __len__(self) -> int:
        return len(next(iter(self.streams.values())))

    def items(self, indices: Sequence[int]) -> Iterator[Item]:
        where = next(iter(self.streams.values())).path
        rows = zip(*(stream.read(indices) for stream in self.streams.values()), strict=True)
        for index, row in zip(indices, rows, strict=True):
            label = None if self.labels is None else int(self.labels[index])
            yield Item(f"{where}[{index}]", dict(zip(self.streams, row, strict=True)), label)

    @property
    def labelled(self) -> bool:
        return self.labels is not None


@dataclass(frozen=True)
class Records(Source):
    """Records that hold image and label, which ``split`` takes apart."""

    stream: ArrayStream
    split: Callable[[Array], tuple[Array, int]]

    def __len__(self) -> int:
        return len(self.stream)

    def items(self, indices: Sequence[int]) -> Iterator[Item]:
        for index, record in zip(indices, self.stream.read(indices), strict=True):
            pixels, label = self.split(record)
            yield Item(f"{self.stream.path}[{index}]", {ONLY: pixels}, label)

    @property
    def labelled(self) -> bool:
        return True


@dataclass(frozen=True)
class Joined(Source):
    """Several sources, one after the other."""

    parts: Sequence[Source]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def items(self, indices: Sequence[int]) -> Iterator[Item]:
        start, chosen = 0, np.asarray(indices, np.int64)
        for part in self.parts:
            inside = chosen[(chosen >= start) & (chosen < start + len(part))] - start
            if len(inside):
                yield from part.items([int(index) for index in inside])
            start += len(part)

    @property
    def labelled(self) -> bool:
        return any(part.labelled for part in self.parts)
