"""``octet accuracy``: how often a model is right."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pipeline.accuracy import Accuracy, measure_accuracy
from pipeline.cli.data import (
    EXPLAINED,
    add_data_arguments,
    add_score_arguments,
    data_files,
    open_data,
    score_options,
    tell_data,
)
from pipeline.cli.progress import progress_bar
from pipeline.network import open_network
from pipeline.outputs import check_outputs, write_text

HELP = "measure a model's accuracy"
DESCRIPTION = f"""\
Runs a classifier on samples whose classes are known and prints how often the right
one has the largest score (top-1), and is among the five largest (top-5); and, with
--reference, how often two models choose the same. An ONNX file, float or quantised,
runs in onnxruntime; a library in Octet's runtime.
This loads the library and runs its code: use it only on libraries you trust.

{EXPLAINED}"""
EPILOG = """\
examples:
  octet accuracy model.so --data images/ --resize 256
  octet accuracy model.onnx --data test10k.npz --scale 1/255 --per-class
  octet accuracy model.so --data test.npz --reference model.onnx
  octet accuracy model.so --data images/ --label-offset 1       class 0 of the model is the background
  octet accuracy lenet.onnx --data t10k-images-idx3-ubyte.gz --json result.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL.onnx|LIB.so", help="the classifier")
    parser.add_argument("--reference", metavar="FILE", help="another model, .onnx or .so, to agree with")
    parser.add_argument("--per-class", action="store_true", help="also print each class")
    add_score_arguments(parser)
    parser.add_argument("--batch", type=int, metavar="N", help="samples a call, where the model leaves it open")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of a call (default: all physical cores)")
    parser.add_argument("--json", metavar="FILE", help="also write the result to this file")
    add_data_arguments(parser)


def main(options: argparse.Namespace) -> None:
    check_outputs([options.json], [options.model, options.reference, *data_files(options)])
    network = open_network(options.model, options.threads)
    reference = open_network(options.reference, options.threads) if options.reference else None
    data = open_data(options, network.description, batch=options.batch, classes=True)
    with progress_bar(verbose=options.verbose) as progress:
        result = measure_accuracy(
            network,
            data,
            reference=reference,
            per_class=options.per_class,
            progress=lambda share: progress("running", share),
            **score_options(options),
        )
    tell_data(data)
    print(describe(result, options.model, options.reference))
    if options.json:
        files = {"model": Path(options.model).name, "engine": network.engine}
        if options.reference:
            files["reference"] = Path(options.reference).name
        write_text(options.json, json.dumps({**files, **result.to_json()}, indent=2) + "\n")


def describe(result: Accuracy, model: str, reference: str | None) -> str:
    """The result for people."""
    lines = [f"{model}: {result.samples} samples, {result.labelled} with a class"]
    for name, share, count in (
        ("top-1", result.top1, result.right),
        ("top-5", result.top5, result.right_in_5),
    ):
        if share is not None:
            lines.append(f"  {name:<11} {share:6.2f} %   {count} of {result.labelled}")
    if result.agreement is not None:
        lines.append(f"  {'same class':<11} {result.agreement:6.2f} %   as {reference}, {result.agreeing} samples")
    if result.reference_top1 is not None:
        lines.append(f"  {'its top-1':<11} {result.reference_top1:6.2f} %   {result.reference_right} samples")
    if result.per_class:
        lines += ["", f"  {'class':>5}  {'samples':>7}  {'right':>8}  {'wrongly':>7}"]
        for label, one in sorted(result.per_class.items()):
            right = f"{one.recall:6.2f} %" if one.samples else "       -"
            lines.append(f"  {label:>5}  {one.samples:>7}  {right}  {one.wrongly:>7}")
    return "\n".join(lines)
