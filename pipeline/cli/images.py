"""The options that say how an image becomes an input, shared by the verbs that read images."""

from __future__ import annotations

import argparse
import math
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data import InputSpec, Preprocessing, library_preprocessing, preprocessing_for
from pipeline.data.images import prepared, read_image
from pipeline.data.inputs import Array
from pipeline.data.preprocessing import COLOURS, CROPS, LAYOUTS
from pipeline.errors import InputError
from pipeline.runtime import Manifest, TensorInfo

_FIELDS = ("size", "resize", "crop", "mean", "std", "scale", "layout", "colour")


def add_image_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that make a preprocessing recipe."""
    group = parser.add_argument_group(
        "images",
        "An image is scaled, cropped and then normalised: (pixel * scale - mean) / std.\n"
        "What you leave out comes from the recipe stored in the model, if there is one.\n"
        "Without it, and with none of --scale, --mean and --std: scale 1/255 and, for three\n"
        "channels, ImageNet's mean and deviation; an input of integers gets the pixels as\n"
        "they are. A network gives nonsense on images that are not prepared as in its training.",
    )
    size = "height and width, or one number for both (default: what the model takes)"
    group.add_argument("--size", type=int, nargs="+", metavar="N", help=size)
    resize = "scale the shorter side to this before cutting out the centre (default: the size)"
    group.add_argument("--resize", type=int, metavar="N", help=resize)
    crop = "centre: keep the aspect ratio and cut; squash: do not (default: centre)"
    group.add_argument("--crop", choices=CROPS, help=crop)
    scale = "factor for pixels of 0..255, such as 1/255 (default; 1 if a mean is above 1 or the input takes integers)"
    group.add_argument("--scale", type=_number, help=scale)
    group.add_argument("--mean", type=_number, nargs="+", metavar="M", help="one, or one a channel (default: 0)")
    group.add_argument("--std", type=_number, nargs="+", metavar="S", help="one, or one a channel (default: 1)")
    group.add_argument("--layout", choices=LAYOUTS, help="order of dimensions (default: from the shape)")
    group.add_argument("--colour", choices=COLOURS, help="order of channels (default: rgb)")


def image_options(options: argparse.Namespace) -> dict[str, Any]:
    """What the command line says of images, by the names of :class:`pipeline.data.Preprocessing`'s fields.

    Raises:
        InputError: --size has more than two numbers.
    """
    given = {name: getattr(options, name) for name in _FIELDS if getattr(options, name) is not None}
    if "size" in given:
        if len(given["size"]) > 2:
            raise InputError(f"--size has {len(given['size'])} numbers: give height and width, or one for both")
        given["size"] = (given["size"][0], given["size"][-1])
    return given


class Images:
    """Prepares images for the inputs of a library, as the command line and the recipe stored in the library say."""

    def __init__(self, options: argparse.Namespace, manifest: Manifest) -> None:
        self._options = image_options(options)
        self._stored = library_preprocessing(manifest)
        self._recipes: dict[str, Preprocessing] = {}

    def read(self, path: Path, info: TensorInfo) -> Array:
        """The image file as a batch of one; raises InputError where it or the input is unfit."""
        return read_image(path, InputSpec.of(info), self._recipe(info))[None]

    def are_pixels(self, array: Array, info: TensorInfo) -> bool:
        """Whether ``array`` holds images still to be prepared: bytes, for an input of floats."""
        return array.dtype == np.uint8 and np.dtype(info.dtype).kind == "f" and len(info.shape) in (3, 4)

    def prepare(self, pixels: Array, info: TensorInfo, where: str) -> Array:
        """One image of uint8 as one sample, without the batch; raises InputError where it does not fit."""
        return prepared(pixels, InputSpec.of(info), self._recipe(info), where)

    def _recipe(self, info: TensorInfo) -> Preprocessing:
        if info.name not in self._recipes:
            self._recipes[info.name] = preprocessing_for(InputSpec.of(info), self._options, self._stored)
            print(f"{info.name}: {self._recipes[info.name]}", file=sys.stderr)
        return self._recipes[info.name]


def _number(text: str) -> float:
    """A float, or a fraction such as 1/255."""
    try:
        number = float(Fraction(text.replace(" ", ""))) if "/" in text else float(text)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return number
