"""``octet profile``: where the time of a library goes."""

from __future__ import annotations

import argparse

from pipeline.cli.data import add_data_arguments, data_files, open_data, tell_data
from pipeline.cli.progress import progress_bar
from pipeline.data import describe_model
from pipeline.errors import InputError
from pipeline.outputs import check_outputs, write_output, write_text

HELP = "show where a library's time goes, operator by operator"
DESCRIPTION = """\
Runs a library again and again, times each of its operators in the order of the
network, and prints them from the slowest on: milliseconds, multiply-accumulates and
bytes a second, and their share of what this machine does at best, which is measured
once and remembered. "bound by" says which of the two an operator is nearer to;
"overhead" means far from both. Below are the sums, beside the latency without the
profiler. docs/profile.md explains the columns.
This loads the library and runs its code: use it only on libraries you trust."""
EPILOG = """\
examples:
  octet profile model.so --threads 1
  octet profile model.so --plot profile.svg                    or .png
  octet profile model.so --data images/ --resize 256           on a real image
  octet profile model.so --json profile.json                   for scripts
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("library", metavar="LIB.so", help="what `octet compile` wrote")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of a call (default: all physical cores)")
    parser.add_argument("--warmup", type=float, default=0.5, metavar="S", help="seconds to warm up (default: 0.5)")
    parser.add_argument("--seconds", type=float, default=4.0, metavar="S", help="seconds to measure (default: 4)")
    parser.add_argument("--top", type=int, metavar="N", help="print the N slowest operators (default: all)")
    parser.add_argument("--remeasure", action="store_true", help="measure this machine's limits again")
    parser.add_argument("--json", metavar="FILE", help="also write the result to this file")
    parser.add_argument("--plot", metavar="FILE.svg|png", help="also draw the result")
    add_data_arguments(parser, required=False)


def main(options: argparse.Namespace) -> None:
    from pipeline.profiling import profile, to_json, to_text, write_figure
    from pipeline.profiling.figure import check_figure_name

    if options.top is not None and options.top < 1:
        raise InputError(f"--top {options.top}: give 1 or more")
    plot = check_figure_name(options.plot) if options.plot else None
    check_outputs([options.json, plot], [options.library, *data_files(options)])
    data = open_data(options, describe_model(options.library)) if options.data else None
    inputs = None if data is None else next(iter(data))
    if data is not None:
        tell_data(data)
    with progress_bar(verbose=options.verbose) as progress:
        result = profile(
            options.library,
            threads=options.threads,
            inputs=inputs,
            warmup=options.warmup,
            seconds=options.seconds,
            remeasure=options.remeasure,
            progress=progress,
        )
    print(to_text(result, options.top))
    if options.json:
        write_text(options.json, to_json(result))
    if plot:
        write_output(plot, lambda file: file.write(write_figure(result, plot.suffix)))
