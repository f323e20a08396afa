"""``octet compile``: an ONNX file to a library."""

from __future__ import annotations

import argparse
from pathlib import Path

import pipeline
from pipeline.cli.progress import progress_bar
from pipeline.cli.shapes import add_shape_arguments, named_shapes
from pipeline.runtime import read_manifest
from pipeline.targets import NATIVE, PRESETS, resolve, supported_by_host
from pipeline.tuning import RECORDS_FOLDER

HELP = "compile an ONNX file into a library"
DESCRIPTION = """\
Compiles a quantised ONNX network (QDQ, QLinear… or …Integer operators) into one
shared library for one hardware target. The weights are inside; nothing else is
needed to run it but numpy and TVM's runtime."""
EPILOG = f"""\
targets: {", ".join([NATIVE, *PRESETS])}

examples:
  octet compile resnet50_qdq.onnx                              writes resnet50_qdq.so for this machine
  octet compile resnet50_qdq.onnx --target llvm-avx2 -o r50.so
  octet compile model.onnx --batch 8                           fixes an open batch dimension
  octet compile model.onnx --shape image=1,3,224,224           fixes any open dimension
  octet compile model.onnx --pure-int8                         fails if some operator would run in floating point
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL.onnx", help="the quantised network")
    parser.add_argument(
        "--target", default=NATIVE, metavar="NAME", help="hardware to compile for (default: native, this machine)"
    )
    parser.add_argument("--output", "-o", metavar="FILE.so", help="where to write (default: MODEL.so, in this folder)")
    add_shape_arguments(parser)
    parser.add_argument(
        "--pure-int8", action="store_true", help="fail if an operator has no integer form, and list all such operators"
    )
    records = parser.add_mutually_exclusive_group()
    records.add_argument(
        "--records", default=RECORDS_FOLDER, metavar="DIR",
        help="schedules that `octet tune` found (default: tuning_logs, here or beside the package, if it is there)",
    )  # fmt: skip
    records.add_argument("--no-records", action="store_true", help="use the default schedules")
    parser.add_argument("--dump-ir", metavar="DIR", help="write the module after each phase into this folder")


def main(options: argparse.Namespace) -> None:
    target = resolve(options.target)
    output = options.output or Path(options.model).with_suffix(".so").name
    with progress_bar(verbose=options.verbose) as progress:
        path = pipeline.compile(
            options.model,
            target.name,
            output=output,
            batch=options.batch,
            shapes=named_shapes(options),
            pure_int8=options.pure_int8,
            records=None if options.no_records else options.records,
            dump_ir=options.dump_ir,
            progress=progress,
        )
    manifest = read_manifest(path)
    print(
        f"{path}: {path.stat().st_size / 1e6:.1f} MB for {manifest.target}, "
        f"{manifest.integer_operators} integer and {manifest.float_operators} float operators, "
        f"{manifest.tuned_kernels} tuned kernels"
    )
    if manifest.float_operators:
        print(f"`octet inspect {options.model}` says which operators are float, and why")
    if not supported_by_host(target):
        print("this machine's CPU cannot run it: copy it to one that can")
