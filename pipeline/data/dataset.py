"""Samples for a model, batch by batch, any number of times, on memory that does not grow with their number."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.data.find import find_samples
from pipeline.data.images import prepared, read_image
from pipeline.data.inputs import Array, InputSpec
from pipeline.data.preprocessing import Preprocessing, preprocessing_for
from pipeline.data.sources import ONLY, Item, Source
from pipeline.errors import InputError

MAX_UNREADABLE = 0.1
"""The largest share of images that may be unreadable: above it, the data set is not the one that was meant."""


@dataclass(frozen=True)
class Batch:
    """Some samples: arrays by input name, what each is called, and the class of those that have one."""

    inputs: dict[str, Array]
    names: tuple[str, ...]
    labels: tuple[int | None, ...]

    def __len__(self) -> int:
        return len(self.names)


class Dataset:
    """Samples of ``source`` for a model that takes ``inputs``: iterate for ``{input name: array}``, again and again.

    Args:
        preprocessing: the recipe, or values by the names of its fields for what the model's shape does not say;
            for images, and for arrays of uint8 that go into a float input. Other arrays go in as they are.
        samples: so many, drawn at random; all if there are fewer, or None.
        seed: of that draw.
        batch: samples in an array; the model's own where it is fixed, else 1.

    Raises:
        InputError: there are no samples, or the arguments make no sense.
    """

    def __init__(
        self,
        source: Source,
        inputs: Sequence[InputSpec],
        preprocessing: Preprocessing | Mapping[str, Any] | None = None,
        *,
        samples: int | None = None,
        seed: int = 0,
        batch: int | None = None,
        stored: Preprocessing | None = None,
    ) -> None:
        if not inputs:
            raise InputError("the model has no inputs")
        if samples is not None and samples < 1:
            raise InputError(f"{samples} samples: give 1 or more")
        if seed < 0:
            raise InputError(f"seed {seed}: give 0 or more")
        if not len(source):
            raise InputError("there are no samples")
        fixed = inputs[0].batch
        self.batch = (fixed or 1) if batch is None else batch
        if self.batch < 1:
            raise InputError(f"batch {self.batch}: give 1 or more")
        if fixed is not None and self.batch != fixed:
            raise InputError(f"batch {self.batch}: the model takes {fixed}")
        self.inputs = tuple(inputs)
        self.labelled = source.labelled
        self.unreadable: dict[str, str] = {}
        """Names of the images that could not be read so far, and why. They are left out."""
        self._source = source
        self._recipe = preprocessing if isinstance(preprocessing, Preprocessing) else None
        self._options = {} if preprocessing is None or self._recipe else dict(preprocessing)  # type: ignore[arg-type]
        self._stored = stored
        self._indices = _draw(len(source), samples, seed)
        self.used_preprocessing = False

    def __len__(self) -> int:
        """How many samples there are, unreadable ones included."""
        return len(self._indices)

    @property
    def used(self) -> int:
        """How many samples iterating gives, as far as is known: whole batches where the model's batch is fixed."""
        readable = len(self) - len(self.unreadable)
        return readable - readable % (self.inputs[0].batch or 1)

    def __iter__(self) -> Iterator[dict[str, Array]]:
        """The arrays alone; without the last, short batch where the model's batch is fixed.

        Raises:
            InputError: as :meth:`batches` does, or there is not one whole batch.
        """
        fixed, whole = self.inputs[0].batch, 0
        for batch in self.batches():
            if fixed is None or len(batch) == fixed:
                whole += 1
                yield batch.inputs
        if not whole:
            raise InputError(f"{len(self)} samples do not fill one batch of {fixed}, which the model takes")

    @property
    def preprocessing(self) -> Preprocessing:
        """The recipe for images.

        Raises:
            InputError: the model takes none, or an option does not fit it.
        """
        if self._recipe is None:
            if len(self.inputs) != 1:
                names = ", ".join(spec.name for spec in self.inputs)
                raise InputError(f"the model has {len(self.inputs)} inputs ({names}): give an .npz with all of them")
            self._recipe = preprocessing_for(self.inputs[0], self._options, self._stored)
        return self._recipe

    def batches(self, progress: Callable[[float], None] | None = None) -> Iterator[Batch]:
        """The samples with their names and labels. ``progress`` hears how much is done, 0 to 1.

        Raises:
            InputError: a sample does not fit the model, more than :data:`MAX_UNREADABLE` of the images cannot be
                read, or none can.
        """
        rows: list[dict[str, Array]] = []
        items: list[Item] = []
        for done, item in enumerate(self._source.items(self._indices), 1):
            row = self._row(item)
            if row is not None:
                rows.append(row)
                items.append(item)
            if rows and (len(rows) == self.batch or done == len(self)):
                yield _batch(rows, items)
                rows, items = [], []
            if progress:
                progress(done / len(self))

    def _row(self, item: Item) -> dict[str, Array] | None:
        """The arrays of one sample, without the batch dimension; None if it is an image that cannot be read."""
        if isinstance(item.content, Mapping):
            return {
                spec.name: self._array(item.content[ONLY if ONLY in item.content else spec.name], spec, item.name)
                for spec in self.inputs
            }
        how, spec = self.preprocessing, self.inputs[0]
        self.used_preprocessing = True
        try:
            return {spec.name: read_image(item.content, spec, how)}
        except InputError as error:
            self.unreadable[item.name] = str(error)
            if len(self.unreadable) > MAX_UNREADABLE * len(self):
                raise InputError(
                    f"{len(self.unreadable)} of {len(self)} images cannot be read, more than "
                    f"{100 * MAX_UNREADABLE:.0f} %; the last one: {error}"
                ) from None
            return None

    def _array(self, values: Array, spec: InputSpec, where: str) -> Array:
        is_image = values.dtype == np.uint8 and np.dtype(spec.dtype).kind == "f" and len(spec.shape) in (3, 4)
        if not is_image:
            return spec.converted(values, where)
        self.used_preprocessing = True
        return prepared(values, spec, self.preprocessing, where)


def load_data(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    inputs: Sequence[InputSpec],
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    *,
    labels: str | os.PathLike[str] | None = None,
    classes: bool = False,
    samples: int | None = None,
    seed: int = 0,
    batch: int | None = None,
    stored: Preprocessing | None = None,
) -> Dataset:
    """The samples of files or folders as a :class:`Dataset`; see there, and :func:`find_samples` for the kinds.

    ``inputs`` and ``stored`` come from :func:`pipeline.data.describe_model`. Classes are read where they are asked for,
    from the file ``labels`` or, with ``classes``, from where they lie with the data.

    Raises:
        InputError: there are no samples, a file is damaged, or an argument makes no sense.
    """
    listed = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    source = find_samples(listed, [spec.name for spec in inputs], labels, classes=classes)
    return Dataset(source, inputs, preprocessing, samples=samples, seed=seed, batch=batch, stored=stored)


def _draw(count: int, samples: int | None, seed: int) -> list[int]:
    if samples is None or samples >= count:
        return list(range(count))
    return sorted(int(index) for index in np.random.default_rng(seed).choice(count, samples, replace=False))


def _batch(rows: Sequence[Mapping[str, Array]], items: Sequence[Item]) -> Batch:
    inputs = {}
    for name in rows[0]:
        arrays = [row[name] for row in rows]
        if len({array.shape for array in arrays}) > 1:  # open dimensions: only equal ones make an array
            raise InputError(f"input {name!r}: samples of different shapes in one batch; use batches of 1")
        inputs[name] = np.stack(arrays)
    return Batch(inputs, tuple(item.name for item in items), tuple(item.label for item in items))
