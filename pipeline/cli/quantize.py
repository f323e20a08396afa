"""``octet quantize``: a float ONNX file to a QDQ file."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

import pipeline
from pipeline.accuracy import measure_accuracy
from pipeline.cli.data import (
    EXPLAINED,
    add_data_arguments,
    add_score_arguments,
    data_files,
    open_data,
    score_options,
    tell_data,
)
from pipeline.cli.progress import Progress, progress_bar
from pipeline.data import METADATA_KEY, Dataset, describe_model
from pipeline.errors import InputError
from pipeline.network import open_network
from pipeline.outputs import check_output, check_outputs
from pipeline.quantization import (
    CalibrationTable,
    LayerCost,
    MixedPrecision,
    mixed_precision,
    sensitivity,
    table_of_model,
)
from pipeline.quantization.model import load_float_graph
from pipeline.quantization.options import make_options
from pipeline.quantization.placement import place
from pipeline.quantization.tables import check_scales_of

HELP = "quantise a float ONNX file to 8 bits"
DESCRIPTION = f"""\
Turns a float32 ONNX file into a QDQ file, which `octet compile` takes and which any ONNX
runtime can run. It looks at some hundred typical samples to choose the range of each
tensor; classes are not needed. Prepare the samples as in the network's training: the
recipe is stored in the file, and used by `octet run` and `octet accuracy` from then on.

{EXPLAINED}"""
EPILOG = """\
observers: minmax, moving-average, percentile, kl (TensorRT, Caffe-Int8), kl-ncnn, kl-paddle,
histogram-l2, mse, aciq, aciq-laplace

examples:
  octet quantize model.onnx --data images/ --resize 256 -o q.onnx
  octet quantize model.onnx --data train.npz --observer percentile --observer-option percentile=99.9
  octet quantize model.onnx --data images/ -o q.onnx --exclude "^head/" --skip-last 1
  octet quantize model.onnx --data images/ -o q.onnx --activations s8 --symmetric --weights per-tensor
  octet quantize model.onnx --data labelled/ -o q.onnx --max-drop 0.5 --sensitivity
"""
SAMPLES = 512
_METRICS = ("top1", "top5")
_OF_BUDGET = ("metric", "labels", "label_offset", "output_name")
_SELECTION = ("include", "exclude", "skip_first", "skip_last")
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_PASSED = (
    "observer",
    "io_observer",
    "activations",
    "symmetric",
    "weights",
    "weight_bits",
    "weight_range",
    "outputs",
    *_SELECTION,
    "overrides",
    "table",
    "table_scales",
    "equalize",
    "bias_correction",
    "rounding",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL.onnx", help="the float network")
    parser.add_argument("--output", "-o", metavar="FILE.onnx", help="where to write (default: MODEL_q.onnx, here)")
    parser.add_argument("--batch", type=int, metavar="N", help="samples a run, where the model leaves it open")
    add_data_arguments(parser, samples=SAMPLES)
    how = parser.add_argument_group("activations")
    how.add_argument("--observer", metavar="NAME", help="how ranges are chosen (default: mse)")
    option = "setting of the observer, such as percentile=99.9; may be repeated"
    how.add_argument("--observer-option", action="append", default=[], metavar="NAME=NUMBER", help=option)
    how.add_argument("--io-observer", metavar="NAME", help="the same for inputs and outputs (default: minmax)")
    how.add_argument("--activations", metavar="u8|s8", help="type (default: u8)")
    how.add_argument("--symmetric", action="store_true", default=None, help="zero point in the middle of the type")
    how.add_argument("--outputs", metavar="quantized|float", help="of the last layer (default: quantized)")
    weights = parser.add_argument_group("weights")
    kinds = "per-channel (default), per-tensor or per-group"
    weights.add_argument("--weights", metavar="KIND", help=f"one scale for what: {kinds}")
    weights.add_argument("--weight-bits", type=int, metavar="N", help="2 to 8, stored as 8 (default: 8)")
    ranges = "cut off nothing, or by the error of the weights or of results (default: minmax; output below 8 bits)"
    weights.add_argument("--weight-range", metavar="minmax|mse|output", help=ranges)
    better = parser.add_argument_group("what may gain accuracy; each says what it gained")
    better.add_argument("--equalize", action="store_true", default=None, help="scale neighbouring layers alike first")
    correction = "take the mean error of each layer off its bias (default: yes)"
    better.add_argument("--bias-correction", action=argparse.BooleanOptionalAction, default=None, help=correction)
    better.add_argument("--rounding", metavar="nearest|adaround", help="of the weights (default: nearest)")
    tables = parser.add_argument_group("calibration tables (ncnn, caffe-int8-convert-tools)")
    tables.add_argument("--table", metavar="FILE", help="take the scales of weights and activations from this table")
    sides = "activation scales in tables are of each layer's input (default) or output"
    tables.add_argument("--table-scales", metavar="input|output", help=sides)
    tables.add_argument("--write-table", metavar="FILE", help="write the table of the quantised model as well")
    mixed = parser.add_argument_group("what stays float")
    mixed.add_argument("--include", action="append", metavar="REGEX", help="only nodes whose name has this; repeatable")
    mixed.add_argument("--exclude", action="append", metavar="REGEX", help="no nodes whose name has this; repeatable")
    mixed.add_argument("--skip-first", type=int, metavar="N", help="leave the first N layers with weights float")
    mixed.add_argument("--skip-last", type=int, metavar="N", help="leave the last N layers with weights float")
    mixed.add_argument("--overrides", metavar="FILE.toml", help="exceptions for single tensors and layers")
    search = parser.add_argument_group("search for what stays float, by accuracy on --data, which needs classes")
    budget = "keep as few layers float as lose at most N points of the metric"
    search.add_argument("--max-drop", type=float, metavar="N", help=budget)
    search.add_argument("--metric", choices=_METRICS, help="what --max-drop is of (default: top1)")
    add_score_arguments(search)
    ranking = "print what each layer loses alone: SQNR of the outputs and, with --max-drop, the metric"
    parser.add_argument("--sensitivity", action="store_true", help=ranking)


def main(options: argparse.Namespace) -> None:
    output = options.output or f"{Path(options.model).stem}_q.onnx"
    _check_options(options)
    _check_outputs(options, output)
    if options.write_table:
        _check_layer_names(options)
    needs_classes = options.max_drop is not None
    data = open_data(options, describe_model(options.model), batch=options.batch, classes=needs_classes)
    chosen = {name: value for name in _PASSED if (value := getattr(options, name)) is not None}
    chosen["observer_options"] = dict(map(_setting, options.observer_option))
    told: list[str] = []
    with progress_bar(verbose=options.verbose) as progress:
        progress("reading the first sample", 0.0)
        next(data.batches())  # what does not fit the model is refused before minutes of work
        produced: dict[str, Any] = {"output": output, "metadata": _recipe(data), "say": told.append}
        if needs_classes:
            found = _within_budget(options, data, progress, chosen | produced)
            path, ranking = found.path, found.ranking
            told.append(_search_told(found, options))
        else:
            ranking = []
            made = 0.3 if options.sensitivity else 1.0
            path = pipeline.quantize(
                options.model, data, progress=lambda what, share: progress(what, made * share), **chosen, **produced
            )
            if options.sensitivity:
                ranking = sensitivity(
                    options.model, data, progress=lambda what, share: progress(what, made + 0.7 * share), **chosen
                )
    tell_data(data)
    for line in [*told, *_ranking_told(ranking)]:
        print(line)
    if options.write_table:
        _write_table(path, options)
    print(describe(options.model, path, data.used))


def _check_options(options: argparse.Namespace) -> None:
    """What can be refused by the command line alone."""
    if options.max_drop is None:
        idle = [name for name in _OF_BUDGET if getattr(options, name) is not None]
        if idle:
            raise InputError(f"--{idle[0].replace('_', '-')} is only for --max-drop, which is not given")
    elif options.table is not None:
        raise InputError("--max-drop and --table exclude each other: the table fixes which layers are quantised")
    if options.table_scales is not None:
        check_scales_of(options.table_scales)
        if options.table is None and options.write_table is None:
            raise InputError("--table-scales is only for --table and --write-table, and neither is given")


def _check_outputs(options: argparse.Namespace, output: str) -> None:
    inputs = [options.model, options.table, options.overrides, *data_files(options)]
    check_output(output, keep=inputs)
    check_outputs([options.write_table], [output, *inputs])


def _check_layer_names(options: argparse.Namespace) -> None:
    """Raise InputError, before minutes of work, where a layer to be quantised has a name that no table can hold."""
    selection = {name: value for name in _SELECTION if (value := getattr(options, name)) is not None}
    graph, _ = load_float_graph(options.model)
    layers = place(graph, make_options(options.overrides, **selection)).layers
    CalibrationTable({layer.name: (1.0,) for layer in layers}).to_text()


def _within_budget(
    options: argparse.Namespace, data: Dataset, progress: Progress, chosen: dict[str, Any]
) -> MixedPrecision:
    """Mixed precision, judged on the calibration samples."""
    if not data.labelled:
        raise InputError("--max-drop measures accuracy, and the data has no classes; see --labels, or use --exclude")

    def metric(path: Path) -> float:
        result = measure_accuracy(open_network(path), data, **score_options(options))
        share = result.top5 if options.metric == "top5" else result.top1
        if share is None:
            raise InputError(f"--metric {options.metric}: the model has too few classes; take top1")
        if path == Path(options.model) and not share:
            raise InputError(
                f"the float model gets none of {result.labelled} samples right, so that nothing can be lost: look at "
                "the classes and the preprocessing; a model that counts a background class needs --label-offset 1"
            )
        return share

    chosen.pop("table_scales", None)  # only of the table that is written
    budget = {"metric": metric, "max_drop": options.max_drop, "sensitivity": options.sensitivity}
    return mixed_precision(options.model, data, progress=progress, **budget, **chosen)


def _search_told(found: MixedPrecision, options: argparse.Namespace) -> str:
    metrics = f"float {found.float_metric:.2f} %, all layers quantised {found.quantized_metric:.2f} %"
    kept = f"{len(found.kept_float)} layers kept in float"
    return f"{options.metric or 'top1'}: {metrics}, this file {found.metric:.2f} %; {kept}"


def _ranking_told(ranking: Sequence[LayerCost]) -> list[str]:
    lines = []
    for cost in ranking:
        points = "" if cost.drop is None else f", {cost.drop:.2f} points"
        lines.append(f"  {cost.name}: {cost.sqnr:.1f} dB{points}")
    return ["what each layer loses alone, worst first:", *lines] if lines else []


def _write_table(model: Path, options: argparse.Namespace) -> None:
    """The calibration table of what was made, and what it could not say."""
    table = table_of_model(model, options.table_scales or "input")
    path = table.write(options.write_table)
    print(f"{path}: the scales of {len(table.weights)} layers")
    for note in table.notes:
        print(f"  {note}")


def describe(source: str, path: Path, samples: int) -> str:
    """What was made, for people."""
    graph = onnx.load(str(path), load_external_data=False).graph
    producers = {output: node for node in graph.node for output in node.output}
    layers = [node for node in graph.node if node.op_type in _LAYERS]
    in_float = [
        node
        for node in layers
        if not all(name in producers and producers[name].op_type == "DequantizeLinear" for name in node.input[:2])
    ]
    kinds = Counter(node.op_type for node in graph.node)
    sizes = [Path(name).stat().st_size / 1e6 for name in (source, path)]
    quantised = f"{len(layers) - len(in_float)} of {len(layers)} layers with weights"
    calibrated = f"calibrated on {samples} sample{'s' * (samples != 1)}"
    lines = [
        f"{path}: {sizes[1]:.1f} MB, {source} has {sizes[0]:.1f} MB; {calibrated}",
        f"  quantised: {quantised}, {kinds['QuantizeLinear']} activations",
        *(f"  float: {node.name} ({node.op_type})" for node in in_float),
        "`octet accuracy` says how good it is, `octet compare` where it loses most, `octet compile` makes a library",
    ]
    return "\n".join(lines)


def _recipe(data: Dataset) -> dict[str, str]:
    return {METADATA_KEY: data.preprocessing.to_json()} if data.used_preprocessing else {}


def _setting(text: str) -> tuple[str, Any]:
    """(name, number) of NAME=NUMBER."""
    name, _, value = text.partition("=")
    try:
        return name.replace("-", "_"), int(value) if value.lstrip("-").isdecimal() else float(value)
    except ValueError:
        raise InputError(f"--observer-option {text}: write NAME=NUMBER, such as percentile=99.9") from None
