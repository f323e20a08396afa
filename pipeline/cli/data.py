"""The options that name the samples to calibrate with, to measure on or to compare on."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from pipeline.cli.images import add_image_arguments, image_options
from pipeline.data import Dataset, ModelDescription, load_data

EXPLAINED = """\
data: a folder of images, images, .npy, .npz, an idx file of MNIST or .bin files of CIFAR.
Arrays of uint8 are images, prepared as image files are; float arrays go in as they are.
Classes, read only to measure accuracy, come from a labels.txt in the folder ("file name,
class" a line), from one folder a class, from the array "labels" of an .npz, from the file
itself, or from --labels FILE."""


def add_data_arguments(
    parser: argparse.ArgumentParser, *, samples: int | None = None, default: str | None = None, required: bool = True
) -> None:
    """Add ``--data``, ``--labels``, ``--samples``, ``--seed`` and the options for images.

    ``samples`` is how many are taken by default, None for all; ``default`` says so where the caller decides.
    """
    group = parser.add_argument_group("data")
    group.add_argument("--data", nargs="+", required=required, metavar="PATH", help="folders or files with samples")
    group.add_argument("--labels", metavar="FILE", help="the classes, where they are not with the data")
    told = default or samples or "all"
    group.add_argument(
        "--samples", type=int, default=samples, metavar="N", help=f"take so many, drawn at random (default: {told})"
    )
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of that draw (default: 0)")
    add_image_arguments(parser)


def add_score_arguments(parser: argparse._ActionsContainer) -> None:
    """Add ``--label-offset`` and ``--output-name``: how the classes of the data fit the outputs of a model."""
    offset = "add this to each label, where the model counts a background class (default: 0)"
    parser.add_argument("--label-offset", type=int, metavar="N", help=offset)
    parser.add_argument("--output-name", metavar="NAME", help="the scores, where the model has several outputs")


def score_options(options: argparse.Namespace) -> dict[str, Any]:
    """What these say, as arguments of :func:`pipeline.accuracy.measure_accuracy`."""
    return {"label_offset": options.label_offset or 0, "output": options.output_name}


def data_files(options: argparse.Namespace) -> list[str | None]:
    """The files and folders that the command line names as data: no output may be one of them."""
    return [*(options.data or []), options.labels]


def open_data(
    options: argparse.Namespace, model: ModelDescription, *, batch: int | None = None, classes: bool = False
) -> Dataset:
    """The samples that the command line names, for ``model``; with ``classes`` also the class of each that has one."""
    return load_data(
        options.data,
        model.inputs,
        image_options(options),
        labels=options.labels if classes else None,
        classes=classes,
        samples=options.samples,
        seed=options.seed,
        batch=batch,
        stored=model.preprocessing,
    )


def tell_data(data: Dataset) -> None:
    """Say on stderr, after the samples were read, how they were prepared and what was left out."""
    if data.used_preprocessing:
        print(f"{data.inputs[0].name}: {data.preprocessing}", file=sys.stderr)
    if data.unreadable:
        print(_left_out(list(data.unreadable.values()), len(data)), file=sys.stderr)


def _left_out(problems: Sequence[str], count: int) -> str:
    return f"{len(problems)} of {count} images left out, the first one: {problems[0]}"
