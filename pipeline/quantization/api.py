"""The quantiser's function: a float ONNX file in, a QDQ file out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from pipeline.errors import InputError, ModelError
from pipeline.frontend.graph import Graph
from pipeline.quantization.calibration import Watched, calibrate
from pipeline.quantization.encoding import Encoding, encode_activations, encode_layers, make_observers
from pipeline.quantization.feeds import Data, Feeds
from pipeline.quantization.model import load_float_graph
from pipeline.quantization.onnxruntime_session import Session
from pipeline.quantization.options import Options, Patterns, make_options
from pipeline.quantization.placement import Placement, place
from pipeline.quantization.writer import check_output, finish, save, to_qdq

Progress = Callable[[str, float], None]


def quantize(
    model: str | os.PathLike[str],
    data: Data | None,
    *,
    output: str | os.PathLike[str],
    observer: str = "minmax",
    observer_options: Mapping[str, Any] | None = None,
    input_observer: str = "minmax",
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
    samples: int | None = None,
    metadata: Mapping[str, str] | None = None,
    progress: Progress | None = None,
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
        input_observer: the observer of the model's inputs, whose range is mostly known and full of meaning at its ends.
        activations: "u8" or "s8".
        symmetric: zero points in the middle of the type (or, for u8, at 0 where nothing is negative).
        weights: "per-channel", "per-tensor", or "per-group" (one scale for each group of a convolution).
        weight_bits: 2 to 8; narrower weights are stored as int8 all the same.
        weight_range: "minmax", or "mse" for the scale with the least squared error; None takes mse below 8 bits.
        outputs: "quantized", or "float" to leave the result of the last layer in float32.
        include, exclude: regular expressions that are searched in the names of nodes; what is left out stays float.
        skip_first, skip_last: so many layers with weights stay float.
        overrides: exceptions by tensor and node, a TOML file or a mapping: see :mod:`pipeline.quantization.overrides`.
        samples: use so many samples of ``data``.
        metadata: entries for the file's metadata.
        progress: called with what is being done and the share of the work done, 0 to 1.

    Returns:
        The path of the file.

    Raises:
        ModelError: the model cannot be read, is quantised already, has no weights, or computes NaN.
        InputError: an option or the data makes no sense, or the file cannot be written.
    """
    options = make_options(
        overrides,
        observer=observer,
        observer_options=dict(observer_options or {}),
        input_observer=input_observer,
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
    )
    tell = progress or (lambda _phase, _share: None)
    path = check_output(output)
    tell("read", 0.0)
    graph, source = load_float_graph(model)
    if data is None:
        result = _quantize(graph, options, None, tell)
        finish(result, source, options, metadata or {})
    else:
        with closing(Feeds(data, graph.inputs, samples)) as feeds:
            result = _quantize(graph, options, feeds, tell)
            finish(result, source, options, metadata or {})
            tell("check", 0.97)
            _try(result, feeds)
    save(result, path)
    tell("done", 1.0)
    return path


def _quantize(graph: Graph, options: Options, feeds: Feeds | None, tell: Progress) -> ModelProto:
    placement = place(graph, options)
    activations = _calibrated(graph, placement, options, feeds, tell)
    tell("weights", 0.85)
    layers = encode_layers(graph, placement, options, activations)
    tell("write", 0.95)
    return to_qdq(graph, placement, Encoding(activations, layers))


def _calibrated(
    graph: Graph, placement: Placement, options: Options, feeds: Feeds | None, tell: Progress
) -> dict[str, Any]:
    observers = make_observers(placement, options, [value.name for value in graph.inputs])
    if observers and feeds is None:
        missing = [placement.groups[index].members[0] for index in observers]
        raise InputError(
            f"no calibration data is given, and overrides do not say the range of {len(missing)} tensors: "
            f"{', '.join(map(repr, missing[:5]))}{', ...' if len(missing) > 5 else ''}."
        )
    if observers and feeds is not None:
        watched = [Watched(placement.groups[index].sources, observer) for index, observer in observers.items()]
        calibrate(graph, graph.to_model(), watched, feeds, lambda share: tell("calibrate", 0.05 + 0.8 * share))
    return encode_activations(graph, placement, options, observers)


def _try(model: ModelProto, feeds: Feeds) -> None:
    """Run the quantised model once: a file that no runtime loads, or that gives NaN, must not be handed out."""
    feed = next(iter(feeds))
    if feeds.is_divisible:
        feed = {name: value[:1] for name, value in feed.items()}
    session = Session(model)
    for name, value in zip(session.outputs, session.run(feed), strict=True):
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise ModelError(f"output {name!r} of the quantised model is NaN or infinite. Please report this.")
