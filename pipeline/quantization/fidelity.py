"""How close a quantised model is to the float one on the calibration data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
from onnx import ModelProto

from pipeline.quantization.feeds import Feeds, size_of
from pipeline.quantization.onnxruntime_session import Feed, Session

SAMPLES = 64
"""Enough for tenths of a decibel."""


class Fidelity:
    """The outputs of the float model ``reference`` on the first samples, to compare others with."""

    def __init__(self, reference: ModelProto, feeds: Feeds, samples: int = SAMPLES) -> None:
        self._feeds = feeds
        self._samples = samples
        self._outputs = [value.name for value in reference.graph.output]
        self._reference = list(self._run(reference))

    def sqnr(self, model: ModelProto) -> float:
        """Signal to quantisation noise of all float outputs together, in dB; inf where they are equal."""
        signal = noise = 0.0
        for reference, outputs in zip(self._reference, self._run(model), strict=True):
            for expected, value in zip(reference, outputs, strict=True):
                if expected.dtype.kind == "f":
                    wide = expected.astype(np.float64)
                    signal += float(np.square(wide).sum())
                    noise += float(np.square(wide - value).sum())
        return decibel(signal, noise)

    def _run(self, model: ModelProto) -> Iterator[list[np.ndarray]]:
        session = Session(model, self._outputs)
        return (session.run(feed) for feed in first_samples(self._feeds, self._samples))


def first_samples(feeds: Iterable[Feed], samples: int) -> Iterator[Feed]:
    """Batches until ``samples`` are there; the last one whole."""
    count = 0
    for feed in feeds:
        yield feed
        count += size_of(feed)
        if count >= samples:
            return


def decibel(signal: float, noise: float) -> float:
    """``10 log10(signal / noise)``: inf without noise, -inf without signal."""
    if noise == 0:
        return math.inf
    return -math.inf if signal == 0 else 10 * math.log10(signal / noise)
