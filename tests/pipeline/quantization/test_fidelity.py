"""Signal to noise ratios of quantised models against the float one."""

from __future__ import annotations

import math

import numpy as np

from pipeline.quantization import fidelity
from pipeline.quantization.feeds import Feeds
from pipeline.quantization.fidelity import Fidelity
from tests.pipeline.quantization.networks import Net, batches


def _model():
    return Net().conv("x", "y").model("y")


def test_data_that_shuffle():
    """The outputs of the float model used to be compared with those for other samples: about 0 dB, whatever was done.

    torch's DataLoader(shuffle=True) gives another order at each reading.
    """
    samples, rng, model = batches(200, (1, 3, 8, 8)), np.random.default_rng(0), _model()

    def data():
        return (samples[index] for index in rng.permutation(len(samples)))

    same = Fidelity(model, Feeds(data, list(model.graph.input)))
    assert same.sqnr(model) == same.sqnr(model) == math.inf


def test_samples_kept_are_few(monkeypatch):
    """64 samples, or as many as the memory for them holds; a batch stays whole."""
    read: list[int] = []

    def data():
        for index, batch in enumerate(batches(40)):
            read.append(index)
            yield batch

    model = _model()
    feeds = Feeds(data, list(model.graph.input))
    Fidelity(model, feeds)
    assert read == list(range(32))
    read.clear()
    monkeypatch.setattr(fidelity, "KEPT_BYTES", 3 * 2 * 4 * (3 + 4) * 8 * 8)
    Fidelity(model, feeds)
    assert read == [0, 1, 2]
