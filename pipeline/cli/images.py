"""From an image file to the numbers that a network wants."""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError
from pipeline.runtime import TensorInfo

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".gif", ".tif", ".tiff"})
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM", "GIF", "TIFF")
MAX_PIXELS = 100_000_000
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """``(pixel * scale - mean) / std`` on an image brought to ``height`` x ``width``, quantised if the input is."""

    height: int
    width: int
    channels: int
    layout: str
    colour: str
    crop: str
    resize: int
    """Length of the shorter side that the image is scaled to before its centre is cut out."""
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __str__(self) -> str:
        how = f"shorter side to {self.resize}, centre" if self.crop == "centre" else "squashed"
        numbers = f"(pixel * {self.scale:.6g} - {_joined(self.mean)}) / {_joined(self.std)}"
        kind = self.colour if self.channels == 3 else f"{self.channels} channel"
        return f"{how} {self.height}x{self.width}, {kind}, {self.layout}, {numbers}"


def add_image_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how an image becomes an input."""
    group = parser.add_argument_group(
        "images",
        "An image is scaled, cropped and then normalised: (pixel * scale - mean) / std.\n"
        "With none of --scale, --mean and --std: scale 1/255 and, for three channels,\n"
        "ImageNet's mean and deviation. A network gives nonsense on images that are not\n"
        "prepared as in its training.",
    )
    group.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="size (default: what the model takes)")
    crops = "centre: keep the aspect ratio and cut; squash: do not (default: centre)"
    group.add_argument("--crop", choices=("centre", "squash"), default="centre", help=crops)
    resize = "scale the shorter side to this before cutting out the centre (default: the size)"
    group.add_argument("--resize", type=int, metavar="N", help=resize)
    group.add_argument("--scale", type=float, help="factor for pixels of 0..255 (default: 1/255)")
    group.add_argument("--mean", type=float, nargs="+", metavar="M", help="one, or one a channel (default: 0)")
    group.add_argument("--std", type=float, nargs="+", metavar="S", help="one, or one a channel (default: 1)")
    group.add_argument("--layout", choices=("nchw", "nhwc"), help="order of dimensions (default: from the shape)")
    group.add_argument("--colour", choices=("rgb", "bgr"), default="rgb", help="order of channels (default: rgb)")


def preprocessing(options: argparse.Namespace, info: TensorInfo) -> Preprocessing:
    """What the command line says, completed from the shape of the input.

    Raises:
        InputError: the input takes no image, or an option does not fit it.
    """
    layout = options.layout or _layout(info)
    if len(info.shape) != 4:
        raise InputError(f"input {info} takes no image: it has not four dimensions; give a .npy file")
    channels, height, width = info.shape[1:] if layout == "nchw" else (info.shape[3], *info.shape[1:3])
    if channels not in (1, 3):
        raise InputError(f"input {info} takes no image: {channels} channels as {layout}; give --layout or a .npy file")
    if options.size and tuple(options.size) != (height, width):
        raise InputError(f"--size {options.size[0]} {options.size[1]}: input {info} takes {height} x {width} pixels")
    resize = options.resize or min(height, width)
    if not min(height, width) <= resize <= 16 * max(height, width):
        raise InputError(f"--resize {resize}: give at least {min(height, width)}, the size to be cut out")
    imagenet = options.scale is None and options.mean is None and options.std is None and channels == 3
    scale = 1 / 255 if options.scale is None else options.scale
    mean = _per_channel("--mean", options.mean or (IMAGENET_MEAN if imagenet else (0.0,)), channels)
    std = _per_channel("--std", options.std or (IMAGENET_STD if imagenet else (1.0,)), channels)
    if 0 in std or not all(math.isfinite(number) for number in (scale, *mean, *std)):
        raise InputError("--scale, --mean and --std must be finite numbers, and --std not 0")
    return Preprocessing(height, width, channels, layout, options.colour, options.crop, resize, scale, mean, std)


def read_image(path: Path, info: TensorInfo, how: Preprocessing) -> npt.NDArray[Any]:
    """The image at ``path`` as ``info.dtype[1, …]``.

    Raises:
        InputError: the file is no image, is damaged, or has more than :data:`MAX_PIXELS` pixels.
    """
    pixels = np.asarray(_open(path, how), "float32")
    pixels = pixels.reshape(how.height, how.width, how.channels)
    if how.colour == "bgr":
        pixels = pixels[..., ::-1]
    values = (pixels * np.float32(how.scale) - np.asarray(how.mean, "float32")) / np.asarray(how.std, "float32")
    dtype = np.dtype(info.dtype)
    if dtype.kind in "iu":
        if info.quantization:
            values = values / np.float32(info.quantization.scale) + info.quantization.zero_point
        limits = np.iinfo(dtype)
        values = np.clip(np.rint(values), limits.min, limits.max)
    if how.layout == "nchw":
        values = values.transpose(2, 0, 1)
    return np.ascontiguousarray(values[None].astype(dtype))


def _open(path: Path, how: Preprocessing) -> Any:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about large images; the limit below is ours
            file = Image.open(path, formats=_FORMATS)
            if file.width * file.height > MAX_PIXELS:
                raise InputError(f"{path} has {file.width} x {file.height} pixels; {MAX_PIXELS} is the most")
            image = ImageOps.exif_transpose(file).convert("RGB" if how.channels == 3 else "L")
    except UnidentifiedImageError:
        raise InputError(f"{path} is not an image that can be read; {', '.join(_FORMATS)} can") from None
    except Image.DecompressionBombError:
        raise InputError(f"{path} has more than {MAX_PIXELS} pixels") from None
    except (OSError, ValueError, SyntaxError) as error:  # Pillow raises SyntaxError on some broken files
        problem = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(f"cannot read the image {path}: {problem}") from None
    if how.crop == "squash":
        return image.resize((how.width, how.height), Image.Resampling.BILINEAR)
    cover = max(how.height / image.height, how.width / image.width)
    factor = cover * how.resize / min(how.height, how.width)
    left, top = (image.width - how.width / factor) / 2, (image.height - how.height / factor) / 2
    box = (max(0.0, left), max(0.0, top), min(image.width, image.width - left), min(image.height, image.height - top))
    return image.resize((how.width, how.height), Image.Resampling.BILINEAR, box=box)


def _layout(info: TensorInfo) -> str:
    return "nhwc" if len(info.shape) == 4 and info.shape[3] in (1, 3) and info.shape[1] not in (1, 3) else "nchw"


def _per_channel(option: str, values: Sequence[float], channels: int) -> tuple[float, ...]:
    if len(values) not in (1, channels):
        raise InputError(f"{option} has {len(values)} values: give 1 or {channels}")
    return tuple(values) * (channels if len(values) == 1 else 1)


def _joined(values: tuple[float, ...]) -> str:
    return f"{values[0]:g}" if len(set(values)) == 1 else "(" + ", ".join(f"{value:g}" for value in values) + ")"
