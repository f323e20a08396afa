"""The entry point of ``octet``: picks the verb, and turns exceptions into exit codes.

0: done. 1: a fault in Octet. 2: something is wrong with what was given. 130: interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import pipeline
from pipeline.errors import OctetError

_EPILOG = """\
a first session:
  octet quantize float.onnx --data images/ -o model.onnx    if it is not quantised yet
  octet inspect model.onnx                    what will run as integers, what will not, and why
  octet compile model.onnx -o model.so        for this machine; --target for another
  octet tune model.onnx --budget 10m          faster schedules for this machine; then compile again
  octet run model.so photo.jpg --top-k 5
  octet bench model.so --threads 1
  octet profile model.so --threads 1          which operators take the time, and what they could take

`octet VERB --help` explains each verb, with examples.
A compiled library is a program: run only libraries that you trust.
"""


class _Parser(argparse.ArgumentParser):
    """An argument parser that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"octet: error: {message} (see `{self.prog} --help`)\n")


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    # What they import takes a second or two, in which an interrupt must find main() at work.
    from pipeline.cli import accuracy, bench, compare, compile, inspect, profile, quantize, run, tune

    top = _Parser(
        prog="octet",
        description="Compiles a quantised ONNX network into one shared library that runs it in INT8 on\n"
        "one kind of hardware, and runs such libraries.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"octet {pipeline.__version__}")
    verbs = top.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb in (quantize, compile, tune, run, accuracy, compare, bench, profile, inspect):
        sub = verbs.add_parser(
            verb.__name__.rpartition(".")[2],
            help=verb.HELP,
            description=verb.DESCRIPTION,
            epilog=verb.EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.add_argument("--verbose", "-v", action="store_true", help="tell the whole story, with tracebacks")
        verb.add_arguments(sub)
        sub.set_defaults(verb=verb.main)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``octet`` with ``arguments`` (default: those of this process) and return its exit code."""
    try:
        return _run(parser().parse_args(arguments))
    except KeyboardInterrupt:
        print("octet: interrupted", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace) -> int:
    """Run the verb, and return the exit code."""
    try:
        options.verb(options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output (head, less) is gone: nothing is left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OctetError as error:
        _complain(error, str(error), verbose=options.verbose)
        return 2
    except Exception as error:  # noqa: BLE001 - the last resort, so that nobody meets a bare traceback
        _complain(
            error,
            f"{type(error).__name__}: {error} - a fault in Octet, not in your input; "
            "run with --verbose for the traceback and report it",
            verbose=options.verbose,
        )
        return 1
    return 0


def _complain(error: Exception, message: str, *, verbose: bool) -> None:
    if verbose:
        traceback.print_exception(error)
    print(f"octet: error: {' '.join(message.split())}", file=sys.stderr)
