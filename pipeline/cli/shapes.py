"""The options that make dynamic shapes static, shared by the verbs that read a model."""

from __future__ import annotations

import argparse


def add_shape_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--batch`` and ``--shape``."""
    parser.add_argument("--batch", type=_positive, metavar="N", help="size of the batch dimension, where it is open")
    parser.add_argument(
        "--shape",
        dest="shapes",
        action="append",
        type=_named_shape,
        metavar="NAME=D0,D1,…",
        help="full shape of an input, such as image=1,3,224,224; may be repeated",
    )


def named_shapes(options: argparse.Namespace) -> dict[str, tuple[int, ...]] | None:
    """The shapes of ``--shape`` by input name, as the API takes them."""
    return dict(options.shapes) if options.shapes else None


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)


def _named_shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, equals, sizes = text.rpartition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=D0,D1,… such as image=1,3,224,224")
    return name, tuple(_positive(size.strip()) for size in sizes.split(","))
