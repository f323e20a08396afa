"""``octet bench``: how fast a library is here."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from pipeline.cli.data import add_data_arguments, data_files, open_data, tell_data
from pipeline.cli.progress import progress_bar
from pipeline.data import describe_model
from pipeline.outputs import check_outputs, write_text
from pipeline.runtime import Model, Timing, load

HELP = "measure a library's latency and throughput"
DESCRIPTION = """\
Runs a library again and again on random data, or on the first batch of --data, one
call after the other, and prints the latency of a call: the median (p50), what 90 and 99 of 100 calls stay
under, and samples a second. The first calls, which warm the caches, do not count.
This loads the library and runs its code: use it only on libraries you trust."""
EPILOG = """\
examples:
  octet bench model.so                                         on all cores, for three seconds
  octet bench model.so --threads 1 --seconds 10
  octet bench model.so --data images/ --resize 256             on a real image
  octet bench model.so --json result.json                      also as JSON, for scripts
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("library", metavar="LIB.so", help="what `octet compile` wrote")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of a call (default: all physical cores)")
    parser.add_argument("--warmup", type=float, default=0.5, metavar="S", help="seconds to warm up (default: 0.5)")
    parser.add_argument("--seconds", type=float, default=3.0, metavar="S", help="seconds to measure (default: 3)")
    parser.add_argument("--json", metavar="FILE", help="also write the result to this file")
    add_data_arguments(parser, required=False)


def main(options: argparse.Namespace) -> None:
    check_outputs([options.json], [options.library, *data_files(options)])
    model = load(options.library, options.threads)
    data = open_data(options, describe_model(options.library)) if options.data else None
    inputs = [] if data is None else [next(iter(data))]
    if data is not None:
        tell_data(data)
    with progress_bar(verbose=options.verbose) as progress:
        timing = model.time(
            *inputs,
            warmup=options.warmup,
            seconds=options.seconds,
            progress=lambda fraction: progress("measuring", fraction),
        )
    print(f"{options.library}: {model.manifest.model_file} for {model.manifest.target}")
    print(f"  threads     {timing.threads}")
    print(f"  batch       {timing.batch}")
    print(f"  calls       {timing.calls}")
    for name in ("p50", "p90", "p99", "mean", "minimum"):
        print(f"  {name:<11} {getattr(timing, name):.3f} ms")
    print(f"  throughput  {timing.throughput:.1f} samples/s")
    if options.json:
        write_text(options.json, json.dumps(_result(options.library, model, timing), indent=2) + "\n")


def _result(library: str, model: Model, timing: Timing) -> dict[str, Any]:
    manifest = model.manifest
    return {
        "library": Path(library).name,
        "model_file": manifest.model_file,
        "model_sha256": manifest.model_sha256,
        "target": manifest.target,
        "octet_version": manifest.octet_version,
        "tvm_version": manifest.tvm_version,
        "unit": "ms",
        **dataclasses.asdict(timing),
        "throughput": timing.throughput,
    }
