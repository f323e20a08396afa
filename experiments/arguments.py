"""What the scripts' command lines have in common."""

from __future__ import annotations

import argparse
from collections.abc import Sequence


def positive(text: str) -> int:
    """A whole number from 1; the ``type`` of an argparse argument."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


positive.__name__ = "positive number"  # argparse prints it: "invalid positive number value: 'x'"


def chosen(parser: argparse.ArgumentParser, names: Sequence[str], known: Sequence[str]) -> list[str]:
    """``names``, or all ``known`` ones if there are none; ends the program where one is not known.

    For optional positional arguments, on which argparse's own ``choices`` rejects the empty list.
    """
    unknown = [name for name in names if name not in known]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; choose from {', '.join(known)}")
    return list(names or known)
