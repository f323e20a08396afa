"""Quantises with onnxruntime's ``quantize_static``, the tool that Octet's quantiser is compared with."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

# onnxruntime keeps every activation of every batch of a stride: more images at once, more memory.
STRIDE = 32


def quantize(source: Path, images: np.ndarray, output: Path, *, method: str, per_channel: bool = True) -> None:
    """Write the QDQ file ``output``: uint8 activations with zero points, symmetric int8 weights.

    ``images`` (count, ...) is the model's only input; ``method`` is the name of an onnxruntime CalibrationMethod.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = output.with_suffix(".prepared.onnx")
    with _quiet():
        # ONNX's own shape inference suffices for feed-forward networks; the symbolic one would need sympy.
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            output,
            _reader(onnx.load(prepared, load_external_data=False).graph.input[0].name, images),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=per_channel,
            calibrate_method=CalibrationMethod[method],
            extra_options={"CalibStridedMinMax": stride_of(len(images))},
        )


def stride_of(count: int) -> int:
    """The largest divisor of ``count`` up to STRIDE: onnxruntime takes no other strides."""
    return next(size for size in range(min(STRIDE, count), 0, -1) if count % size == 0)


def _reader(name: str, images: np.ndarray) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.set_range(0, len(images))

        def __len__(self) -> int:
            return len(images)

        def set_range(self, start_index: int, end_index: int) -> None:
            self._rest = iter(range(start_index, end_index))

        def get_next(self) -> dict[str, np.ndarray] | None:
            index = next(self._rest, None)
            return None if index is None else {name: images[index : index + 1]}

    return Reader()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings that quantize_static logs for each step, and what its entropy search prints."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(None):
            yield
    finally:
        logger.setLevel(level)
