"""The numbers of a quantised model: parameters of activations, integers of weights and biases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from pipeline.errors import InputError, ModelError
from pipeline.frontend.graph import Graph
from pipeline.quantization.observers import OBSERVERS, Observer
from pipeline.quantization.options import Options
from pipeline.quantization.overrides import LayerOverride, TensorOverride
from pipeline.quantization.parameters import QuantizationParameters, parameters_for_range
from pipeline.quantization.placement import Group, Layer, Placement
from pipeline.quantization.weights import WeightSettings, quantize_bias, weight_parameters, with_room_for_bias


@dataclass(frozen=True)
class LayerEncoding:
    """Integers of one layer. ``bias`` and ``bias_scale`` are None where the layer has no constant bias."""

    weight: np.ndarray
    parameters: QuantizationParameters
    bias: np.ndarray | None = None
    bias_scale: np.ndarray | None = None

    def with_bias(self, bias: np.ndarray, x_scale: np.ndarray) -> LayerEncoding:
        """The same with another float bias (O,)."""
        codes, scale = quantize_bias(bias, x_scale, self.parameters.scale)
        return replace(self, bias=codes, bias_scale=scale)


@dataclass
class Encoding:
    """All of them: parameters by tensor (constant vectors included), integers by name of the layer."""

    activations: dict[str, QuantizationParameters]
    layers: dict[str, LayerEncoding]


def make_observers(graph: Graph, placement: Placement, options: Options, *, has_data: bool) -> dict[int, Observer]:
    """By index of the group, the observer of each group that is watched: no override says its range.

    Without data, a natural range is one that need not be observed.
    """
    edges = {value.name for value in (*graph.inputs, *graph.outputs)}
    observers: dict[int, Observer] = {}
    for index, group in enumerate(placement.groups):
        wish = _override(group, options)
        if not group.sources or (wish is not None and wish.observer is None):
            continue
        if group.natural is not None and not has_data:
            continue
        name = options.io_observer if edges.intersection(group.members) else options.observer
        own = options.observer_options if name == options.observer else {}
        if wish is not None and wish.observer is not None:
            name, own = wish.observer, {}
        try:
            observers[index] = OBSERVERS[name](symmetric=options.symmetric, **own)
        except TypeError as error:
            raise InputError(f"observer_options of observer {name!r}: {error}.") from error
    return observers


def encode_activations(
    graph: Graph, placement: Placement, options: Options, observers: Mapping[int, Observer]
) -> dict[str, QuantizationParameters]:
    """Parameters of each quantised tensor, those of a group being one object."""
    unknown = sorted(set(options.overrides.tensors) - set(placement.group_of))
    if unknown:
        raise InputError(
            f"overrides: tensor {unknown[0]!r} is not quantised, is a constant, or there is none of that name. Tensors "
            "inside a layer and its activation function have no parameters; name the result of the function. For "
            "weights there is weight_scale of the layer."
        )
    parameters = {}
    for index, group in enumerate(placement.groups):
        made = _group_parameters(group, options, observers.get(index))
        parameters.update(dict.fromkeys(group.members, made))
    for name in placement.vectors:
        value = graph.constant(name)
        assert value is not None
        low, high = float(value.min(initial=0)), float(value.max(initial=0))
        parameters[name] = _parameters(low, high, options)
    return parameters


def require_finite(graph: Graph, placement: Placement) -> None:
    """Raise ModelError, naming the layer, where a weight or bias is NaN or infinite."""
    for layer in placement.layers:
        for what, name in (("weights", layer.weight), ("bias", layer.bias)):
            value = graph.constant(name) if name else None
            if value is not None and not np.isfinite(value).all():
                node = f"node {layer.name!r} ({layer.node.op_type})"
                raise ModelError(f"{node}: its {what} {name!r} hold NaN or infinity: export the model again.")


def encode_layers(
    graph: Graph, placement: Placement, options: Options, activations: Mapping[str, QuantizationParameters]
) -> dict[str, LayerEncoding]:
    """Weights rounded to the nearest step, and biases."""
    return {layer.name: encode_layer(graph, layer, options, activations[layer.x]) for layer in placement.layers}


def encode_layer(graph: Graph, layer: Layer, options: Options, x: QuantizationParameters) -> LayerEncoding:
    """One layer with the input parameters ``x``. Raises ModelError, naming it, where an override does not fit it."""
    weight = graph.constant(layer.weight)
    bias = graph.constant(layer.bias) if layer.bias else None
    assert weight is not None
    try:
        parameters = _weight_parameters(weight, layer, options)
    except InputError as error:
        raise ModelError(f"node {layer.name!r} ({layer.node.op_type}): {error}") from error
    if bias is None:
        return LayerEncoding(parameters.quantize(weight), parameters)
    bias = bias.reshape(-1)
    parameters = with_room_for_bias(parameters, bias, float(x.scale))
    return LayerEncoding(parameters.quantize(weight), parameters).with_bias(bias, x.scale)


def weight_steps(graph: Graph, layer: Layer, encoding: Encoding) -> np.ndarray:
    """The float weights of each filter over its scale, (O, K) in float64."""
    weight = graph.constant(layer.weight)
    assert weight is not None
    rows = np.moveaxis(weight, layer.axis, 0).reshape(weight.shape[layer.axis], -1).astype(np.float64)
    scale = np.broadcast_to(encoding.layers[layer.name].parameters.scale, len(rows)).astype(np.float64)
    return rows / scale[:, None]


def with_codes(
    graph: Graph, layer: Layer, encoding: Encoding, codes: np.ndarray, factor: np.ndarray | float
) -> LayerEncoding:
    """The layer with other weights: ``codes`` (O, K) for a scale that is ``factor`` (O,) times as large.

    Where the float bias would leave int32 with that scale, the layer is as it was.
    """
    numbers, x_scale = encoding.layers[layer.name], encoding.activations[layer.x].scale
    shape = np.moveaxis(numbers.weight, layer.axis, 0).shape
    weight = np.ascontiguousarray(np.moveaxis(codes.reshape(shape), 0, layer.axis), np.int8)
    factors = np.broadcast_to(factor, shape[0])
    scale = numbers.parameters.scale * (factors[0] if numbers.parameters.axis is None else factors)
    parameters = replace(numbers.parameters, scale=np.asarray(scale, np.float32))
    bias = graph.constant(layer.bias) if layer.bias else None
    if bias is None:
        return replace(numbers, weight=weight, parameters=parameters)
    bias = bias.reshape(-1)
    if not np.array_equal(with_room_for_bias(parameters, bias, float(x_scale)).scale, parameters.scale):
        return numbers
    return replace(numbers, weight=weight, parameters=parameters).with_bias(bias, x_scale)


def weight_settings(layer: Layer, options: Options) -> WeightSettings:
    """How the weights of a layer are to be quantised."""
    override = options.overrides.layers.get(layer.name, LayerOverride())
    granularity = override.weights or options.weights
    if layer.node.is_op("ConvTranspose") and layer.groups > 1:
        granularity = "per-tensor"  # its groups share the axis of the output channels
    return WeightSettings(override.weight_bits or options.weight_bits, granularity)


def has_stated_scale(layer: Layer, options: Options) -> bool:
    """Whether an override (or a table) says the scale of a layer's weights, which then is not to be changed."""
    return options.overrides.layers.get(layer.name, LayerOverride()).weight_scale is not None


def _weight_parameters(weight: np.ndarray, layer: Layer, options: Options) -> QuantizationParameters:
    override = options.overrides.layers.get(layer.name, LayerOverride())
    parameters = weight_parameters(weight, layer.axis, layer.groups, weight_settings(layer, options))
    if override.weight_scale is None:
        return parameters
    scale = np.asarray(override.weight_scale, np.float32)
    channels = weight.shape[layer.axis]
    if scale.shape not in ((), (1,), (channels,)):
        raise InputError(f"overrides: weight_scale has {scale.size} values, but there are {channels} output channels.")
    axis = layer.axis if scale.shape == (channels,) else None
    scale = scale if axis is not None else scale.reshape(())
    return replace(parameters, scale=scale, zero_point=np.zeros(scale.shape, np.int8), axis=axis)


def _group_parameters(group: Group, options: Options, observer: Observer | None) -> QuantizationParameters:
    wish = _override(group, options)
    if wish is not None and wish.scale is not None:
        return _stated(group, wish, options)
    if wish is not None and wish.range is not None:
        low, high = wish.range
    else:
        low, high = observer.range() if observer is not None else group.natural or (0.0, 0.0)
        if group.natural is not None and wish is None:
            low, high = _within_natural(low, high, group.natural)
        if group.low is not None and group.high is not None:
            low, high = min(low, group.low), max(high, group.high)
    return _parameters(low, high, options)


def _within_natural(low: float, high: float, natural: tuple[float, float]) -> tuple[float, float]:
    """The natural range, for whose scale runtimes have tables, unless what was observed needs less than half of it."""
    if max(high, 0) - min(low, 0) < (natural[1] - natural[0]) / 2:
        return max(low, natural[0]), min(high, natural[1])
    return natural


def _parameters(low: float, high: float, options: Options) -> QuantizationParameters:
    # What is never negative needs no middle: u8 from 0 is as symmetric, and twice as fine.
    from_zero = options.symmetric and options.activation_dtype == np.uint8 and low >= 0
    symmetric = options.symmetric and not from_zero
    return parameters_for_range(low, high, symmetric=symmetric, dtype=options.activation_dtype)


def _stated(group: Group, wish: TensorOverride, options: Options) -> QuantizationParameters:
    limits = np.iinfo(options.activation_dtype)
    zero_point = (limits.min + limits.max + 1) // 2 if wish.zero_point is None else wish.zero_point
    if not limits.min <= zero_point <= limits.max:
        name = group.members[0]
        raise InputError(f"overrides: tensor {name!r}: zero_point {zero_point} does not fit {limits.dtype}.")
    scale, zero = np.asarray(wish.scale, np.float32), np.asarray(zero_point, limits.dtype)
    return QuantizationParameters(scale, zero, limits.dtype, None, int(limits.min), int(limits.max))


def _override(group: Group, options: Options) -> TensorOverride | None:
    """What the user wishes for a member of the group. Raises InputError where two wishes differ."""
    wishes = {name: options.overrides.tensors[name] for name in group.members if name in options.overrides.tensors}
    if len(set(wishes.values())) > 1:
        names = " and ".join(map(repr, list(wishes)[:2]))
        raise InputError(f"overrides: {names} share one scale, but are given different ones.")
    return next(iter(wishes.values()), None)
