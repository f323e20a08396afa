"""Runs the float model over the calibration data and lets observers watch its tensors.

Memory does not depend on the number of batches: each is cut, or its tensors are taken in several runs, so that what
one run hands out stays under :data:`RUN_BYTES`. The next run is computed while the observers look at the last one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, TensorProto, helper

from pipeline.errors import InputError, ModelError
from pipeline.frontend.graph import Graph
from pipeline.frontend.limits import Limits
from pipeline.frontend.shapes import freeze_inputs
from pipeline.quantization.feeds import Feeds, size_of
from pipeline.quantization.observers import Observer
from pipeline.quantization.onnxruntime_session import Feed, Session
from pipeline.quantization.range_conflicts import Extent, only_softmax_reads

RUN_BYTES = 96 * 2**20
"""Two runs are alive at a time: the one that is observed and the one that is computed."""

RUN_SAMPLES = 64
"""What the model holds meanwhile must stay small too, which depends on more than the tensors asked for."""

UNKNOWN_BYTES = RUN_BYTES
"""Taken for a tensor whose size shape inference cannot tell: it gets runs of its own."""

Tell = Callable[[float], None]
"""Told which share of the work is done."""


@dataclass(frozen=True)
class Watched:
    """Tensors whose values one observer sees, all of them as if they were one."""

    tensors: Sequence[str]
    observer: Observer


class Tensors:
    """The values of some tensors of a float model, batch by batch."""

    def __init__(self, graph: Graph, model: ModelProto, names: Iterable[str], feeds: Feeds) -> None:
        """``model`` is ``graph`` as protobuf. Reads the first batch of ``feeds`` to find the size of the tensors."""
        self._feeds = feeds
        first = next(iter(feeds))
        inputs = {value.name for value in graph.inputs}
        self._from_inputs = [name for name in names if name in inputs]
        computed = list(dict.fromkeys(name for name in names if name not in inputs))
        sizes = _sizes(model, {name: value.shape for name, value in first.items()}, computed)
        samples = size_of(first)
        self._piece = samples
        if feeds.is_divisible:
            within = samples * RUN_BYTES // max(sum(sizes.values()), 1)
            self._piece = max(1, min(samples, RUN_SAMPLES, within))
        share = self._piece / samples
        self._sessions = [
            Session(_with_outputs(model, chunk), chunk)
            for chunk in _chunks({name: int(size * share) for name, size in sizes.items()})
        ]
        self.count: int | None = None
        """Number of batches, known after the first reading."""

    def __iter__(self) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """(index of the batch, tensors by name): all of them in one or several dictionaries a batch."""
        # One thread computes ahead of the reader; a session runs on one thread, so the order of sums is fixed.
        with ThreadPoolExecutor(max_workers=1) as executor:
            pending = None
            for index, session, feed in self._runs():
                following = (index, executor.submit(self._run, session, feed))
                if pending is not None:
                    yield pending[0], pending[1].result()
                pending = following
            if pending is not None:
                yield pending[0], pending[1].result()

    def _runs(self) -> Iterator[tuple[int, Session | None, Feed]]:
        index = -1
        for index, feed in enumerate(self._feeds):
            for piece in self._pieces(feed):
                if self._from_inputs:
                    yield index, None, piece
                for session in self._sessions:
                    yield index, session, piece
        self.count = index + 1

    def _run(self, session: Session | None, feed: Feed) -> dict[str, np.ndarray]:
        if session is None:
            return {name: feed[name] for name in self._from_inputs}
        return dict(zip(session.outputs, session.run(feed), strict=True))

    def _pieces(self, feed: Mapping[str, np.ndarray]) -> Iterator[Feed]:
        for start in range(0, size_of(feed), self._piece):
            if self._piece >= size_of(feed):
                yield feed
            else:
                yield {name: value[start : start + self._piece] for name, value in feed.items()}


def calibrate(
    graph: Graph, model: ModelProto, watched: Sequence[Watched], feeds: Feeds, tell: Tell
) -> dict[str, Extent]:
    """Show every observer the values of its tensors, in as many passes as the most patient one needs.

    Returns the smallest and the largest value of each tensor. Observers do not see the -infinity of masks.

    Raises ModelError, naming tensor and node, where another value is NaN or infinite.
    """
    extents: dict[str, Extent] = {}
    observers = {name: entry.observer for entry in watched for name in entry.tensors}
    passes = max((entry.observer.passes for entry in watched), default=0)
    count: int | None = None
    for turn in range(passes):
        due = {name: observer for name, observer in observers.items() if observer.passes > turn}
        tensors = Tensors(graph, model, due, feeds)
        batch_of: dict[Observer, int] = {}
        for index, values in tensors:
            for name, value in values.items():
                low, high = extents[name] = _extended(extents.get(name), value)
                if not (math.isfinite(low) and math.isfinite(high)):
                    value = _finite(graph, name, value)
                observer = due[name]
                observer.observe(value, same_batch=batch_of.get(observer) == index)
                batch_of[observer] = index
            # The number of batches shows after the first pass only; until then the bar creeps.
            done = (index + 1) / count if count else 1 - 1 / (1 + index / 50)
            tell((turn + done) / passes)
        count = tensors.count
        for entry in watched:
            if entry.observer.passes > turn + 1:
                entry.observer.next_pass()
    return extents


def _extended(extent: Extent | None, values: np.ndarray) -> Extent:
    low, high = extent or (math.inf, -math.inf)
    # min and max of numpy hand NaN on, those of Python need not.
    return float(values.min(initial=low)), float(values.max(initial=high))


def _finite(graph: Graph, name: str, values: np.ndarray) -> np.ndarray:
    """The values without the -infinity of a mask. Raises ModelError where anything else in them is not finite."""
    finite = np.isfinite(values)
    if (finite | (values == -np.inf)).all() and only_softmax_reads(graph, name):
        return values[finite]
    node = graph.producer(name)
    where = f"written by node {node.name!r} ({node.op_type})" if node is not None else "an input of the model"
    raise ModelError(
        f"tensor {name!r}, {where}, holds NaN or infinity in {int(values.size - finite.sum())} of {values.size} values "
        "on the calibration data: look at that node's weights and at how the data is preprocessed."
    )


def _sizes(model: ModelProto, shapes: Mapping[str, tuple[int, ...]], names: Sequence[str]) -> dict[str, int]:
    """Bytes of each tensor for inputs of these shapes."""
    frozen = ModelProto()
    frozen.CopyFrom(model)
    try:
        freeze_inputs(frozen, None, shapes, Limits())
        graph = Graph(frozen)
        graph.infer()
    except ModelError as error:
        raise InputError(f"the calibration data does not fit the model: {error}") from error
    known = {name: graph.shape(name) for name in names}
    return {n: UNKNOWN_BYTES if s is None else 4 * math.prod(s) for n, s in known.items()}


def _chunks(sizes: Mapping[str, int]) -> list[list[str]]:
    """The names in lists, each of which stays under the budget or holds one tensor."""
    chunks: list[list[str]] = []
    filled = 0
    for name, size in sizes.items():
        if not chunks or filled + size > RUN_BYTES:
            chunks.append([])
            filled = 0
        chunks[-1].append(name)
        filled += size
    return chunks


def _with_outputs(model: ModelProto, names: Sequence[str]) -> ModelProto:
    """The model whose outputs are ``names`` instead: onnxruntime leaves out what these do not need."""
    changed = ModelProto()
    changed.CopyFrom(model)
    del changed.graph.output[:]
    for name in names:
        changed.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return changed
