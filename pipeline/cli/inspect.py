"""``octet inspect``: what a model will become, or what a library is."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pipeline
from pipeline.cli.progress import progress_bar
from pipeline.cli.shapes import add_shape_arguments, named_shapes
from pipeline.data import library_preprocessing
from pipeline.data.metadata import OPTION
from pipeline.errors import InputError
from pipeline.runtime import Manifest, read_manifest
from pipeline.runtime.cpu import missing_features

HELP = "show what a model or a library consists of"
DESCRIPTION = """\
For an ONNX file: one line an operator, whether it will run on integers or in
floating point, and why. For a library: its manifest, that is what it was compiled
from, for which hardware, its inputs and outputs. None of its code is run."""
EPILOG = """\
examples:
  octet inspect model.onnx
  octet inspect model.onnx --json | jq '.[] | select(.kind == "float")'
  octet inspect model.so
"""
_COLUMNS = ("name", "op_type", "kind", "shape", "reason")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="MODEL.onnx|LIB.so", help="the file to look into")
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")
    add_shape_arguments(parser)


def main(options: argparse.Namespace) -> None:
    if _is_library(options.file):
        manifest = read_manifest(Path(options.file))
        print(json.dumps(json.loads(manifest.to_json()), indent=2) if options.json else describe(manifest))
        return
    with progress_bar(verbose=options.verbose) as progress:
        progress("reading the model", 0.0)
        reports = pipeline.inspect(options.file, batch=options.batch, shapes=named_shapes(options))
    rows = [dataclasses.asdict(report) for report in reports]
    print(json.dumps(rows, indent=2) if options.json else table(rows))


def describe(manifest: Manifest) -> str:
    """A manifest for people."""
    missing = missing_features(manifest.cpu_features)
    versions = {"octet": manifest.octet_version, "tvm": manifest.tvm_version, "tvm-ffi": manifest.tvm_ffi_version}
    options = {name: value for name, value in manifest.options.items() if value and name != OPTION}
    recipe = library_preprocessing(manifest)
    lines = [
        ("compiled from", f"{manifest.model_file or 'an unnamed model'} (sha256 {manifest.model_sha256})"),
        ("target", manifest.target),
        ("CPU must have", ", ".join(manifest.cpu_features) or "nothing special"),
        ("this CPU", f"lacks {', '.join(missing)}: cannot run it" if missing else "can run it"),
        *(("input", str(info)) for info in manifest.inputs),
        *(("output", str(info)) for info in manifest.outputs),
        ("operators", f"{manifest.integer_operators} integer, {manifest.float_operators} float"),
        *([("images", str(recipe))] if recipe else []),
        ("options", ", ".join(f"{name}={value}" for name, value in options.items()) or "none"),
        ("made with", ", ".join(f"{name} {number}" for name, number in versions.items())),
        ("code sha256", manifest.library_sha256),
    ]
    return "\n".join(f"{label:<14} {value}" for label, value in lines)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The operators of a model for people: aligned columns, then a count."""
    cells = [[_cell(row[column]) for column in _COLUMNS] for row in rows]
    header = ["operator", "type", "runs as", "shape", "why"]
    widths = [max(len(line[i]) for line in [header, *cells]) for i in range(len(header) - 1)]
    lines = ["  ".join([*(text.ljust(width) for text, width in zip(line, widths, strict=False)), line[-1]]).rstrip()
             for line in [header, *cells]]  # fmt: skip
    integer = sum(row["kind"] == "integer" for row in rows)
    return "\n".join([*lines, "", f"{integer} integer operators, {len(rows) - integer} float"])


def _cell(value: object) -> str:
    return "x".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _is_library(path: str) -> bool:
    try:
        with Path(path).open("rb") as file:
            return file.read(4) == b"\x7fELF"
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
