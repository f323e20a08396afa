"""The steps from a float model to a quantised one, in order, on one model and one set of calibration data."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from onnx import ModelProto

from pipeline.errors import InputError, ModelError
from pipeline.quantization.batch_axis import samples_are_independent
from pipeline.quantization.bias_correction import add_missing_biases, correct_biases
from pipeline.quantization.calibration import Tell, Watched, calibrate
from pipeline.quantization.encoding import Encoding, encode_activations, encode_layers, make_observers, require_finite
from pipeline.quantization.equalization import equalize
from pipeline.quantization.feeds import Data, Feeds
from pipeline.quantization.fidelity import Fidelity
from pipeline.quantization.model import load_float_graph, runnable
from pipeline.quantization.onnxruntime_session import Session
from pipeline.quantization.options import Options
from pipeline.quantization.placement import place
from pipeline.quantization.range_conflicts import Extent, range_conflicts
from pipeline.quantization.rounding import round_adaptively
from pipeline.quantization.weight_ranges import narrow_ranges, searched_ranges
from pipeline.quantization.wording import some
from pipeline.quantization.writer import finish, to_qdq

Progress = Callable[[str, float], None]
"""Told what is being done, and the share of the work done, 0 to 1."""

Say = Callable[[str], None]
"""Told in words what an option gained, and what is strange about the data."""

Step = Callable[[Encoding, Tell], None]
"""Changes an encoding."""


class Quantizer:
    """A float model that has been calibrated, from which quantised models are made.

    Options that change the numbers are carried out here, in this order: cross-layer equalisation, calibration,
    bias correction, ranges of the weights, rounding; each of the last two is followed by another bias correction.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        data: Data | None,
        options: Options,
        samples: int | None = None,
        progress: Progress | None = None,
        say: Say | None = None,
    ) -> None:
        """Read and calibrate. ``data`` None: the overrides must say every range. Raises ModelError and InputError."""
        self.options = options
        self._tell = progress or (lambda _phase, _share: None)
        self._say = say
        self._fidelity: Fidelity | None = None
        self._kept: set[str] = set()
        """Names of nodes that stay float because of the ranges of what they read."""
        self._tell("read", 0.0)
        self.graph, self._source = load_float_graph(model)
        self.feeds = None if data is None else Feeds(data, self.graph.inputs, samples)
        try:
            self._look_at_batches()
            self.encoding = self._encode()
        except BaseException:
            self.close()
            raise
        if self.feeds is not None and self._say is not None:
            for doubt in self.feeds.doubts:
                self._say(f"warning: {doubt}")

    def close(self) -> None:
        """Remove temporary files."""
        if self.feeds is not None:
            self.feeds.close()

    def float_model(self) -> ModelProto:
        """The prepared float model (folded, equalised)."""
        return self.graph.to_model()

    def reference(self) -> ModelProto:
        """The float model before anything was folded: what errors are measured against."""
        return runnable(self._source)

    def make(
        self,
        keep_float: Collection[str] = (),
        only: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> ModelProto:
        """A checked QDQ model; the layers named in ``keep_float`` stay float, or all but ``only``."""
        placement = place(self.graph, self.options, keep_float=self._kept.union(keep_float), only=only)
        model = to_qdq(self.graph, placement, self.encoding)
        finish(model, self._source, self.options, metadata or {})
        return model

    def check(self, model: ModelProto) -> None:
        """Run it once: a file that no runtime loads, or that gives NaN, must not be handed out. Raises ModelError."""
        if self.feeds is None:
            return
        self._tell("check", 0.97)
        feed = next(iter(self.feeds))
        if self.feeds.is_divisible:
            feed = {name: value[:1] for name, value in feed.items()}
        session = Session(model)
        for name, value in zip(session.outputs, session.run(feed), strict=True):
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise ModelError(f"output {name!r} of the quantised model is NaN or infinite. Please report this.")

    def _look_at_batches(self) -> None:
        """Have batches kept whole where their samples are not independent."""
        if self.feeds is None or not self.feeds.is_divisible:
            return
        if not samples_are_independent(self.float_model(), next(iter(self.feeds))):
            self.feeds.keep_whole()
            if self._say is not None:
                self._say("batches are run whole: the first axis of this model does not count independent samples")

    def _encode(self) -> Encoding:
        options = self.options
        if options.bias_correction:
            add_missing_biases(self.graph)
        self.placement = place(self.graph, options)
        require_finite(self.graph, self.placement)
        encoding = self._equalized() if options.equalize else self._nearest(0.05, 0.7)
        if options.bias_correction:
            self._improve("bias correction", encoding, [self._biases], 0.7, 0.76)
        # What minimises errors but for their mean is judged with the mean taken off.
        after = [self._biases] * options.bias_correction
        if searched_ranges(self.placement, options, has_data=self.feeds is not None):
            self._improve("ranges of the weights", encoding, [self._ranges, *after], 0.76, 0.86)
        if options.rounding == "adaround":
            self._improve("adaptive rounding", encoding, [self._rounding, *after], 0.86, 0.96)
        return encoding

    def _biases(self, encoding: Encoding, tell: Tell) -> None:
        correct_biases(self.graph, self.placement, encoding, self._needed_feeds([]), tell)

    def _ranges(self, encoding: Encoding, tell: Tell) -> None:
        feeds = self._needed_feeds([]) if self.options.weight_range == "output" else self.feeds
        narrow_ranges(self.graph, self.placement, self.options, encoding, feeds, tell)

    def _rounding(self, encoding: Encoding, tell: Tell) -> None:
        round_adaptively(self.graph, self.placement, self.options, encoding, self._needed_feeds([]), tell)

    def _nearest(self, start: float, end: float) -> Encoding:
        """Calibrate, and round to nearest."""
        has_data = self.feeds is not None
        observers = make_observers(self.graph, self.placement, self.options, has_data=has_data)
        if observers:
            watched = [Watched(self.placement.groups[index].sources, o) for index, o in observers.items()]
            feeds = self._needed_feeds([entry.tensors[0] for entry in watched])
            tell = self._part("calibrate", start, end)
            extents = calibrate(self.graph, self.float_model(), watched, feeds, tell)
            if self._keep_conflicts_float(extents):
                return self._nearest(start, end)
        activations = encode_activations(self.graph, self.placement, self.options, observers)
        self._tell("weights", end)
        return Encoding(activations, encode_layers(self.graph, self.placement, self.options, activations))

    def _keep_conflicts_float(self, extents: Mapping[str, Extent]) -> bool:
        """Place anew without the nodes that no scale serves, and say why; whether there are any.

        Where overrides speak of the tensors of a node, that is the user's decision.
        """
        wished = self.options.overrides.tensors.keys()
        groups = self.placement.group_of
        free = {name: extent for name, extent in extents.items() if wished.isdisjoint(groups[name].members)}
        conflicts = range_conflicts(self.graph, self.placement, free)
        if not conflicts:
            return False
        if self._say is not None:
            for reason in conflicts.values():
                self._say(reason)
        self._kept |= conflicts.keys()
        self.placement = place(self.graph, self.options, keep_float=self._kept)
        return True

    def _equalized(self) -> Encoding:
        """Equalise, then as :meth:`_nearest`; if anybody listens, both are done without it first, to compare."""
        if self._say is None or self.feeds is None:
            equalize(self.graph)
            return self._nearest(0.05, 0.7)
        before = self._sqnr(self._nearest(0.05, 0.4))
        pairs = equalize(self.graph)
        encoding = self._nearest(0.4, 0.7)
        self._say(f"equalisation of {pairs} pairs of layers: {_gain(before, self._sqnr(encoding))}")
        return encoding

    def _improve(self, name: str, encoding: Encoding, steps: Sequence[Step], start: float, end: float) -> None:
        """Carry out steps on ``encoding``, and say what they did to the outputs if anybody listens."""
        listens = self._say is not None and self.feeds is not None
        before = self._sqnr(encoding) if listens else 0.0
        for index, step in enumerate(steps):
            size = (end - start) / len(steps)
            step(encoding, self._part(name, start + index * size, start + (index + 1) * size))
        if self._say is not None and listens:
            self._say(f"{name}: {_gain(before, self._sqnr(encoding))}")

    def _sqnr(self, encoding: Encoding) -> float:
        if self._fidelity is None:
            self._fidelity = Fidelity(self.reference(), self._needed_feeds([]))
        return self._fidelity.sqnr(to_qdq(self.graph, self.placement, encoding))

    def _needed_feeds(self, tensors: list[str]) -> Feeds:
        if self.feeds is not None:
            return self.feeds
        if not tensors:
            raise InputError(
                "no calibration data is given, which bias_correction, rounding='adaround' and weight_range='output' "
                "need."
            )
        raise InputError(
            f"no calibration data is given, and overrides do not say the range of {len(tensors)} tensors: "
            f"{some(tensors)}."
        )

    def _part(self, phase: str, start: float, end: float) -> Tell:
        return lambda share: self._tell(phase, start + (end - start) * share)


def _gain(before: float, after: float) -> str:
    return f"SQNR of the outputs {before:.2f} dB before, {after:.2f} dB after"
