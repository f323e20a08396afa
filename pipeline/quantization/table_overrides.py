"""A calibration table as the wish of a user: what it says becomes overrides of tensors and layers."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from dataclasses import replace

import numpy as np

from pipeline.errors import InputError
from pipeline.frontend.graph import Graph
from pipeline.quantization.encoding import weight_settings
from pipeline.quantization.model import load_float_graph
from pipeline.quantization.options import Options
from pipeline.quantization.overrides import LayerOverride, Overrides, TensorOverride
from pipeline.quantization.placement import Group, Layer, Placement, place
from pipeline.quantization.roles import Role, role_of
from pipeline.quantization.tables import LEVELS, CalibrationTable, check_scales_of
from pipeline.quantization.wording import some

_NEVER_NEGATIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs")


def with_table(
    options: Options,
    table: CalibrationTable | str | os.PathLike[str] | None,
    model: str | os.PathLike[str],
    scales_of: str = "input",
) -> Options:
    """``options`` with the scales of a table (or a file of one; None for no table) for the float model in ``model``.

    A table that has rows of weights must have one for each layer that is quantised, and so for activations. What no row
    speaks of (inputs of additions, the last output) is calibrated as ever. The overrides of ``options`` go first.

    Rows belong to the nodes of the same name. If no name is known, they belong to the layers in order.

    Raises InputError where the table is damaged or does not fit the model, naming what is missing and what is left
    over; ModelError where the model cannot be quantised.
    """
    check_scales_of(scales_of)
    if table is None:
        return options
    if options.equalize:
        raise InputError("equalize changes the weights that the table was made for: leave out one of the two.")
    if not isinstance(table, CalibrationTable):
        table = CalibrationTable.read(table)
    graph, _ = load_float_graph(model)
    return replace(options, overrides=table_overrides(table, graph, options, scales_of))


def table_overrides(table: CalibrationTable, graph: Graph, options: Options, scales_of: str = "input") -> Overrides:
    """The overrides of ``options`` together with those that ``table`` amounts to. Raises InputError."""
    placement = place(graph, options)
    layers = dict(options.overrides.layers)
    if table.weights:
        rows = _rows_of(table.weights, "weight", placement)
        for layer in placement.layers:
            own = layers.get(layer.name, LayerOverride())
            if own.weight_scale is None:
                row = rows[layer.name]
                # With fewer bits the threshold stays, and is cut into fewer steps.
                largest = (1 << (weight_settings(layer, options).bits - 1)) - 1
                steps = _weight_steps(graph, layer, row, table.weights[row])
                layers[layer.name] = replace(own, weight_scale=[step * (LEVELS / largest) for step in steps])
    tensors = dict(options.overrides.tensors)
    if table.activations:
        rows = _rows_of(table.activations, "activation", placement)
        scales = {layer.name: table.activations[rows[layer.name]] for layer in placement.layers}
        for group, threshold in _thresholds(placement, graph, scales, scales_of):
            if not tensors.keys() & group.members:
                tensors[group.members[0]] = _tensor_override(graph, group, threshold)
    return Overrides(tensors, layers)


def _rows_of(rows: Collection[str], kind: str, placement: Placement) -> dict[str, str]:
    """For each quantised layer the name of its row."""
    names = [layer.name for layer in placement.layers]
    nodes = placement.candidates
    missing = [name for name in names if name not in rows]
    left_over = [row for row in rows if row not in nodes]
    if not missing and not left_over:
        return {name: name for name in names}
    if len(left_over) == len(rows) == len(nodes):
        by_order = dict(zip(nodes, rows, strict=True))
        return {name: by_order[name] for name in names}
    raise InputError(
        f"the calibration table does not match the model, which has {len(nodes)} layers; the table has {len(rows)} "
        f"{kind} rows. Layers without a row: {some(missing)}. Rows without a layer: {some(left_over)}. Make the "
        "table from this model, rename the rows, or leave layers in float with exclude."
    )


def _weight_steps(graph: Graph, layer: Layer, row: str, scales: tuple[float, ...]) -> list[float]:
    """The step of each output channel, or one for all, in 8 bits."""
    weight = graph.constant(layer.weight)
    assert weight is not None
    channels = weight.shape[layer.axis]
    groups = layer.groups if layer.node.is_op("Conv") else 1
    if len(scales) not in (1, groups, channels):
        grouped = f" in {groups} groups" if groups > 1 else ""
        raise InputError(
            f"the calibration table's weight row {row!r} has {len(scales)} scales, but the layer {layer.name!r} has "
            f"{channels} output channels{grouped}. The table was made for another model, or in another order."
        )
    scale = np.asarray(scales, np.float64)
    if len(scale) == 1 and scale[0] > 0:
        return [float(1 / scale[0])]
    scale = np.repeat(scale, channels // len(scale))
    # 0 is what tools write for a channel that they think dead: it keeps its own step.
    own = np.abs(np.moveaxis(weight, layer.axis, 0).reshape(channels, -1)).max(axis=1).astype(np.float64) / LEVELS
    steps = np.where(scale > 0, 1 / np.where(scale > 0, scale, 1), own)
    return [float(step) for step in np.where(steps > 0, steps, steps.max(initial=0) or 1)]


def _thresholds(
    placement: Placement, graph: Graph, scales: dict[str, float], scales_of: str
) -> Iterable[tuple[Group, float]]:
    """The groups that the rows speak of, in order. Of several rows for one group the widest counts: it cuts nothing."""
    found: dict[int, tuple[Group, float]] = {}
    for layer in placement.layers:
        tensor = layer.x if scales_of == "input" else _result(placement, graph, layer)
        group = placement.group_of.get(tensor)
        if group is None:
            continue  # an output that stays float
        threshold = LEVELS / scales[layer.name]
        found[id(group)] = group, max(threshold, found.get(id(group), (group, 0.0))[1])
    return found.values()


def _result(placement: Placement, graph: Graph, layer: Layer) -> str:
    """The tensor behind the clamp of a layer."""
    tensor = layer.result
    if tensor not in placement.group_of and graph.has_one_use(tensor):
        (reader,) = graph.consumers(tensor)
        if placement.active.get(reader) is Role.CLAMP:
            return reader.outputs[0]
    return tensor


def _tensor_override(graph: Graph, group: Group, threshold: float) -> TensorOverride:
    """From 0 where nothing is negative, which 8 bits resolve twice as finely; else the table's own grid."""
    lowest = 0.0 if group.low is None else group.low
    if lowest >= 0 and all(_never_negative(graph, tensor) for tensor in group.sources):
        return TensorOverride(low=0.0, high=threshold)
    return TensorOverride(scale=threshold / LEVELS)


def _never_negative(graph: Graph, tensor: str) -> bool:
    """Whether the operators in front of a tensor say so."""
    while (producer := graph.producer(tensor)) is not None:
        if producer.is_op(*_NEVER_NEGATIVE):
            return True
        if producer.is_op("Clip"):
            lowest = graph.constant(producer.input(1)) if producer.input(1) else None
            return lowest is not None and float(lowest.min(initial=0)) >= 0
        if producer.is_op("Concat", "Max", "Min", "Pad"):
            return False
        if role_of(graph, producer) not in (Role.PASSIVE, Role.AVERAGE):
            return False
        tensor = producer.inputs[0]
    return False
