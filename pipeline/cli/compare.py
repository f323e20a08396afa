"""``octet compare``: which layer broke it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pipeline.cli.data import EXPLAINED, add_data_arguments, data_files, open_data, tell_data
from pipeline.cli.progress import progress_bar
from pipeline.comparison import compare, find_source
from pipeline.comparison.html import to_html
from pipeline.comparison.table import to_table
from pipeline.data import ModelDescription, describe_model
from pipeline.data.metadata import is_library
from pipeline.errors import InputError
from pipeline.outputs import check_outputs, write_text

HELP = "compare a compiled model with the float model, layer by layer"
DESCRIPTION = f"""\
Runs a float model and its quantised version, compiled, on the same samples and
compares the tensors inside: SQNR (signal to quantisation noise), cosine, largest error
and how much saturates; worst first. "adds" is the noise that comes in at a tensor itself,
in percent of the signal's power: the largest is where to look.
For a library give the ONNX file it was compiled from as well, unless it is beside it.
This runs the library's code: use it only on libraries you trust.

{EXPLAINED}"""
EPILOG = """\
examples:
  octet compare model.onnx q.onnx --data images/
  octet compare model.onnx q.so --data images/ --html report.html
  octet compare model.onnx q.so --model built/q.onnx --data test.npz --json report.json
"""
SAMPLES = 16
SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reference", metavar="FLOAT.onnx", help="the float model")
    parser.add_argument("quantised", metavar="INT8.onnx|INT8.so", help="what was made from it")
    parser.add_argument("--model", metavar="FILE.onnx", help="what INT8.so was compiled from (default: beside it)")
    parser.add_argument("--target", metavar="NAME", help="for an ONNX file: hardware to compile for (default: native)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of a call (default: all physical cores)")
    parser.add_argument("--all", action="store_true", help=f"print all tensors, not only the worst {SHOWN}")
    parser.add_argument("--json", metavar="FILE", help="also write the result to this file")
    parser.add_argument("--html", metavar="FILE", help="also write a page with plots to this file")
    add_data_arguments(parser, default=f"{SAMPLES}, or one batch if that is more")


def main(options: argparse.Namespace) -> None:
    library = options.quantised if is_library(Path(options.quantised)) else None
    if library is None and options.model:
        raise InputError(f"--model goes with a library, and {options.quantised} is none")
    if library is not None and options.target:
        raise InputError("--target goes with an ONNX file; a library has been compiled for one")
    model = (options.model or find_source(library)) if library is not None else options.quantised
    inputs = [options.reference, options.quantised, model, *data_files(options)]
    check_outputs([options.json, options.html], inputs)
    description = _description(options.reference, options.quantised)
    if options.samples is None:
        options.samples = max([SAMPLES, *(spec.batch or 1 for spec in description.inputs[:1])])
    data = open_data(options, description)
    with progress_bar(verbose=options.verbose) as progress:
        result = compare(
            options.reference,
            model,
            data,
            library=library,
            target=options.target,
            threads=options.threads,
            progress=progress,
        )
    tell_data(data)
    print(to_table(result, None if options.all else SHOWN))
    if options.json:
        write_text(options.json, json.dumps(result.to_json(), indent=2, allow_nan=False) + "\n")
    if options.html:
        write_text(options.html, to_html(result))


def _description(reference: str, quantised: str) -> ModelDescription:
    """What the data must be: the batch of the quantised model, and the recipe of whichever has one."""
    theirs, ours = describe_model(quantised), describe_model(reference)
    return ModelDescription(theirs.inputs, theirs.preprocessing or ours.preprocessing)
