"""The calibration data: batches of ``{input name: array}``, checked against the model and read as often as needed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ValueInfoProto, helper

from pipeline.errors import InputError
from pipeline.quantization.options import whole_number

Data = Iterable[Mapping[str, np.ndarray]] | Callable[[], Iterable[Mapping[str, np.ndarray]]]
"""Batches, or a function that gives them anew on each call."""


FEW = 16
"""Fewer samples than this are worth a word."""


class Feeds:
    """Batches that can be read several times; memory does not grow with their number.

    What can only be read once (a generator) is kept in temporary files until :meth:`close`.
    """

    def __init__(self, data: Data, inputs: list[ValueInfoProto], samples: int | None = None) -> None:
        """``samples``: stop after this many along the first axis; a batch that would go over is cut where it can be."""
        samples = None if samples is None else whole_number(samples, "samples")
        if samples is not None and samples < 1:
            raise InputError(f"samples {samples}: give 1 or more, or none for all.")
        if isinstance(data, (str, bytes, Mapping, np.ndarray)) or not (callable(data) or isinstance(data, Iterable)):
            raise InputError(
                f"calibration data is an iterable of {{input name: array}}, one dictionary a batch, not "
                f"{type(data).__name__}."
            )
        self._data = data
        self._inputs = {value.name: value for value in inputs}
        self._samples = samples
        self._whole = False
        self._spool: _Spool | None = None
        self._count = 0
        self._first: dict[str, np.ndarray] = {}
        self._varies = False

    def close(self) -> None:
        """Remove the temporary file, if there is one."""
        if self._spool is not None:
            self._spool.close()

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        """The batches. Raises InputError where one does not fit the model, or where there is none at all."""
        count = 0
        for index, batch in enumerate(self._batches()):
            feed = self._checked(batch, index)
            if self._samples is not None:
                feed = self._cut(feed, self._samples - count)
            self._look(feed)
            yield feed
            count += size_of(feed)
            self._count = max(self._count, count)
            if self._samples is not None and count >= self._samples:
                return
        if count == 0:
            raise InputError("the calibration data is empty: give at least one batch with one image.")

    @property
    def doubts(self) -> list[str]:
        """What is strange about the samples that were read, though they can be used."""
        few = f"calibrated on {self._count} sample{'s' * (self._count > 1)}; some hundred typical ones are usual"
        same = f"all {self._count} calibration samples are equal: is this the right data?"
        return [few] * (self._count < FEW) + [same] * (self._count > 1 and not self._varies)

    @property
    def is_divisible(self) -> bool:
        """Whether the model takes any number of samples at once."""
        return not self._whole and all(_is_open(value, 0) for value in self._inputs.values())

    def keep_whole(self) -> None:
        """Cut no batch from now on: their samples depend on each other."""
        self._whole = True

    def _look(self, feed: Mapping[str, np.ndarray]) -> None:
        """Note whether any sample differs from the first one."""
        if not self._varies:
            samples = {name: np.atleast_1d(value) for name, value in feed.items()}
            self._first = self._first or {name: value[:1].copy() for name, value in samples.items()}
            self._varies = any(
                value.shape[1:] != self._first[name].shape[1:] or (value != self._first[name]).any()
                for name, value in samples.items()
            )

    def _batches(self) -> Iterable[Mapping[str, np.ndarray]]:
        if callable(self._data):
            return self._data()
        if iter(self._data) is not self._data:
            return self._data
        if self._spool is None:
            self._spool = _Spool(iter(self._data))
        return self._spool.read()

    def _cut(self, feed: dict[str, np.ndarray], left: int) -> dict[str, np.ndarray]:
        if size_of(feed) <= left or not self.is_divisible:
            return feed
        return {name: value[:left] for name, value in feed.items()}

    def _checked(self, batch: object, index: int) -> dict[str, np.ndarray]:
        where = f"batch {index} of the calibration data"
        if not isinstance(batch, Mapping):
            raise InputError(f"{where} is {type(batch).__name__}, not a dictionary {{input name: array}}.")
        missing = [name for name in self._inputs if name not in batch]
        extra = [name for name in batch if name not in self._inputs]
        if missing or extra:
            have = ", ".join(map(repr, batch)) or "nothing"
            want = ", ".join(map(repr, self._inputs))
            raise InputError(f"{where} holds {have}, but the inputs of the model are {want}.")
        return {name: _array(batch[name], value, where) for name, value in self._inputs.items()}


def size_of(feed: Mapping[str, np.ndarray]) -> int:
    """Number of samples in a batch: the length of the first axis, 1 for a model of scalars."""
    shape = next(iter(feed.values())).shape
    return shape[0] if shape else 1


def _array(value: Any, info: ValueInfoProto, where: str) -> np.ndarray:
    array = np.asarray(value)
    where = f"{where}: input {info.name!r}"
    dtype = helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
    if array.dtype != dtype and (array.dtype.kind != dtype.kind or array.dtype.kind not in "fiu"):
        raise InputError(f"{where} has type {array.dtype}, the model wants {dtype}; apply its preprocessing first.")
    dims = list(info.type.tensor_type.shape.dim)
    has_shape = info.type.tensor_type.HasField("shape")
    fits = len(dims) == array.ndim and all(
        _is_open(info, axis) or dims[axis].dim_value == size for axis, size in enumerate(array.shape)
    )
    if has_shape and not fits:
        want = ", ".join(d.dim_param or "?" if _is_open(info, i) else str(d.dim_value) for i, d in enumerate(dims))
        hint = ""
        if array.ndim == len(dims) - 1:
            hint = " Add an axis for the batch in front: array[None]."
        elif sorted(array.shape[1:]) == sorted(d.dim_value for d in dims[1:]):
            hint = " The axes seem to be in another order."
        raise InputError(f"{where} has shape {list(array.shape)}, the model wants ({want}).{hint}")
    if array.size == 0:
        raise InputError(f"{where} has shape {list(array.shape)}: it holds no values.")
    # A copy: the run ahead is computed while the next batch is read, for which a generator may refill the same array.
    copy = np.array(array, dtype, order="C")
    if copy.dtype.kind == "f" and not np.isfinite(copy).all():
        raise InputError(f"{where} holds NaN or infinity: look at how it is read and preprocessed.")
    return copy


def _is_open(info: ValueInfoProto, axis: int) -> bool:
    dims = info.type.tensor_type.shape.dim
    return axis < len(dims) and not (dims[axis].HasField("dim_value") and dims[axis].dim_value > 0)


class _Spool:
    """What an iterator gives, written to a temporary file during the first reading."""

    def __init__(self, source: Iterator[Mapping[str, np.ndarray]]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="octet-calibration-")
        self._source = source
        self._names: list[list[str]] = []

    def read(self) -> Iterator[Mapping[str, np.ndarray]]:
        for index in range(len(self._names)):
            yield {name: np.load(self._file(index, i), allow_pickle=False) for i, name in enumerate(self._names[index])}
        for batch in self._source:
            if isinstance(batch, Mapping):
                self._names.append(list(batch))
                for i, value in enumerate(batch.values()):
                    np.save(self._file(len(self._names) - 1, i), np.asarray(value), allow_pickle=False)
            yield batch

    def close(self) -> None:
        self._folder.cleanup()

    def _file(self, batch: int, value: int) -> Path:
        return Path(self._folder.name) / f"{batch}-{value}.npy"
