"""The quantiser's function: a float ONNX file in, a QDQ file out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from pipeline.quantization.feeds import Data
from pipeline.quantization.options import Patterns, make_options
from pipeline.quantization.quantizer import Progress, Quantizer, Say
from pipeline.quantization.table_overrides import with_table
from pipeline.quantization.tables import CalibrationTable
from pipeline.quantization.writer import check_model_output, save


def quantize(
    model: str | os.PathLike[str],
    data: Data | None,
    *,
    output: str | os.PathLike[str],
    observer: str = "mse",
    observer_options: Mapping[str, Any] | None = None,
    io_observer: str = "minmax",
    activations: str = "u8",
    symmetric: bool = False,
    weights: str = "per-channel",
    weight_bits: int = 8,
    weight_range: str | None = None,
    outputs: str = "quantized",
    include: Patterns = None,
    exclude: Patterns = None,
    skip_first: int = 0,
    skip_last: int = 0,
    overrides: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    table: CalibrationTable | str | os.PathLike[str] | None = None,
    table_scales: str = "input",
    equalize: bool = False,
    bias_correction: bool | None = None,
    rounding: str = "nearest",
    samples: int | None = None,
    metadata: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    say: Say | None = None,
) -> Path:
    """Quantise a float32 ONNX model to 8 bits and write it as a standard QDQ file, which any ONNX runtime can run.

    Args:
        model: the float32 ONNX file.
        data: some hundred typical inputs, preprocessed: an iterable of ``{input name: array}``, one a batch, or a
            function that returns one. What can be read only once is kept in a temporary file meanwhile. None is
            enough where ``overrides`` give the range of every activation.
        output: the file to write; it appears whole or not at all.
        observer: how the range of an activation is chosen, a name of :data:`pipeline.quantization.OBSERVERS`.
        observer_options: settings of that observer.
        io_observer: the observer of the model's inputs and outputs: white is a colour as good as grey, and the largest
            output is the answer.
        activations: "u8" or "s8".
        symmetric: zero points in the middle of the type (or, for u8, at 0 where nothing is negative).
        weights: "per-channel", "per-tensor", or "per-group" (one scale for each group of a convolution).
        weight_bits: 2 to 8; narrower weights are stored as int8 all the same.
        weight_range: "minmax", "mse" for the least squared error of the weights, or "output" for that of the layers'
            results on ``data``; None takes minmax at 8 bits, and below them output where there is data, else mse.
        outputs: "quantized", or "float" to leave the result of the last layer in float32.
        include, exclude: regular expressions that are searched in the names of nodes; what is left out stays float.
        skip_first, skip_last: so many layers with weights stay float.
        overrides: exceptions by tensor and node, a TOML file or a mapping: see :mod:`pipeline.quantization.overrides`.
        table: a calibration table of caffe-int8-convert-tools or ncnn, or its file: the scales of weights and
            activations. ``data`` gives the rest; ``overrides`` go first.
        table_scales: whether the table's activation scales are of the "input" or the "output" of each layer.
        equalize: scale channels of neighbouring layers alike first; for weights "per-tensor".
        bias_correction: take the mean error of each layer off its bias; None does so where there is data.
        rounding: "nearest", or "adaround" to choose between up and down by the error of the layer's result.
        samples: use so many samples of ``data``.
        metadata: entries for the file's metadata.
        progress: called with what is being done and the share of the work done, 0 to 1.
        say: called with one line for each of ``equalize``, ``weight_range``, ``rounding`` and ``bias_correction`` that
            did something, on what it gained, and with one for each doubt about the data.

    Returns:
        The path of the file.

    Raises:
        ModelError: the model cannot be read, is quantised already, has no weights, or computes NaN.
        InputError: an option, the table or the data makes no sense, or the file cannot be written or is one that
            is read.
    """
    options = make_options(
        overrides,
        observer=observer,
        observer_options=observer_options or {},
        io_observer=io_observer,
        activations=activations,
        symmetric=symmetric,
        weights=weights,
        weight_bits=weight_bits,
        weight_range=weight_range,
        outputs=outputs,
        include=include,
        exclude=exclude,
        skip_first=skip_first,
        skip_last=skip_last,
        equalize=equalize,
        bias_correction=data is not None if bias_correction is None else bias_correction,
        rounding=rounding,
    )
    path = check_model_output(output, model, overrides, table)
    options = with_table(options, table, model, table_scales)
    with closing(Quantizer(model, data, options, samples, progress, say)) as quantizer:
        result = quantizer.make(metadata=metadata)
        quantizer.check(result)
    save(result, path)
    if progress is not None:
        progress("done", 1.0)
    return path
