"""Whether the first axis of a model's inputs counts samples, which may be run together or apart."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import ModelProto

from pipeline.errors import InputError
from pipeline.quantization.feeds import size_of
from pipeline.quantization.onnxruntime_session import Session

TOLERANCE = 1e-3
"""Of the largest result: sums in another order differ by much less."""

_PARTS = (slice(0, 2), slice(0, 1), slice(1, 2))
"""Two samples together, and each of them."""


def samples_are_independent(model: ModelProto, feed: Mapping[str, np.ndarray]) -> bool:
    """Whether the first two samples of ``feed`` give the same results together as one after the other.

    A model may leave its first axis open and mean points or time steps by it, or hold its batch in a constant.
    """
    if size_of(feed) < 2:
        return True
    session = Session(model)
    try:
        together, *apart = (session.run({name: x[part] for name, x in feed.items()}) for part in _PARTS)
    except InputError:
        return False
    return all(_are_alike(whole, parts) for whole, *parts in zip(together, *apart, strict=True))


def _are_alike(whole: np.ndarray, parts: list[np.ndarray]) -> bool:
    """Also where a result is the same whatever the samples."""
    if whole.dtype.kind not in "biuf":
        return False
    joined = parts if parts[0].shape == whole.shape else [np.concatenate(parts)] if whole.ndim else []
    largest = np.abs(whole, where=np.isfinite(whole), out=np.zeros(whole.shape)).max(initial=0)
    return bool(joined) and all(
        value.shape == whole.shape and np.allclose(value, whole, rtol=0, atol=TOLERANCE * largest, equal_nan=True)
        for value in joined
    )
