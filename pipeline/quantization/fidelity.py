"""How close a quantised model is to the float one on the calibration data."""

from __future__ import annotations

import math

import numpy as np
from onnx import ModelProto

from pipeline.quantization.feeds import Feeds, size_of
from pipeline.quantization.onnxruntime_session import Feed, Session

SAMPLES = 64
"""Enough for tenths of a decibel."""

KEPT_BYTES = 256 * 2**20
"""Of samples and outputs that are kept: where they are large, fewer samples have to do, one batch at least."""


class Fidelity:
    """The first samples and the outputs of the float model ``reference`` on them, to compare others with.

    The samples are kept: data that shuffle give others each time.
    """

    def __init__(self, reference: ModelProto, feeds: Feeds, samples: int = SAMPLES) -> None:
        self._outputs = [value.name for value in reference.graph.output]
        self._kept: list[tuple[Feed, list[np.ndarray]]] = []
        session = Session(reference, self._outputs)
        count = filled = 0
        for feed in feeds:
            self._kept.append((feed, session.run(feed)))
            count += size_of(feed)
            filled += sum(value.nbytes for value in (*feed.values(), *self._kept[-1][1]))
            if count >= samples or filled >= KEPT_BYTES:
                break

    def sqnr(self, model: ModelProto) -> float:
        """Signal to quantisation noise of all float outputs together, in dB; inf where they are equal."""
        session = Session(model, self._outputs)
        signal = noise = 0.0
        for feed, reference in self._kept:
            for expected, value in zip(reference, session.run(feed), strict=True):
                if expected.dtype.kind == "f":
                    wide = expected.astype(np.float64)
                    signal += float(np.square(wide).sum())
                    noise += float(np.square(wide - value).sum())
        return decibel(signal, noise)


def decibel(signal: float, noise: float) -> float:
    """``10 log10(signal / noise)``: inf without noise, -inf without signal."""
    if noise == 0:
        return math.inf
    return -math.inf if signal == 0 else 10 * math.log10(signal / noise)
