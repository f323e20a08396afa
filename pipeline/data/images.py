"""From an image file to the numbers that a network wants. Pillow is imported when the first image is read."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.inputs import Array, InputSpec
from pipeline.data.preprocessing import MAX_PIXELS, Preprocessing
from pipeline.errors import InputError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".gif", ".tif", ".tiff"})
_BITS_PER_SAMPLE = 258  # a tag of TIFF
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM", "GIF", "TIFF")


def read_image(path: Path, spec: InputSpec, how: Preprocessing) -> Array:
    """The image at ``path`` as one sample for ``spec``, without the batch dimension.

    Raises:
        InputError: the file is no image, is damaged, has more than ``MAX_PIXELS`` pixels, or grey values whose range
            is not known.
    """
    return prepared(np.asarray(_open(path, how)), spec, how, str(path))


def prepared(pixels: Array, spec: InputSpec, how: Preprocessing, where: str) -> Array:
    """One image of uint8 as one sample for ``spec``; grey ones may lack the dimension of the channels.

    ``pixels`` is (height, width, channels) or (channels, height, width), already of the size that the network takes.

    Raises:
        InputError: another size or number of channels; ``where`` says whose.
    """
    plain = (*how.size, how.channels)
    if pixels.shape == (how.channels, *how.size) and pixels.shape != plain:
        pixels = np.moveaxis(pixels, 0, -1)
    elif pixels.shape == how.size and how.channels == 1:
        pixels = pixels[..., None]
    if pixels.shape != plain:
        raise InputError(
            f"{where} holds images of shape {'x'.join(map(str, pixels.shape))}; input {spec} needs "
            f"{how.size[0]}x{how.size[1]} pixels of {how.channels} channel{'s' if how.channels > 1 else ''}"
        )
    values = how.normalise(pixels)
    if len(spec.shape) == 3:
        values = values[0] if how.layout == "nchw" else values[..., 0]
    return spec.stored(values)


def _open(path: Path, how: Preprocessing) -> Any:
    from PIL import Image, ImageOps, UnidentifiedImageError

    height, width = how.size
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about large images; the limit below is ours
            with Image.open(path, formats=_FORMATS) as file:
                if file.width * file.height > MAX_PIXELS:
                    raise InputError(f"{path} has {file.width} x {file.height} pixels; {MAX_PIXELS} is the most")
                white = _white(file, path)
                image = ImageOps.exif_transpose(file)
                if white > 255:  # convert would cut off what is above 255
                    image = Image.fromarray(_as_bytes(np.asarray(image), white))
                image = image.convert("RGB" if how.channels == 3 else "L")
    except UnidentifiedImageError:
        raise InputError(f"{path} is not an image that can be read; {', '.join(_FORMATS)} can") from None
    except Image.DecompressionBombError:
        raise InputError(f"{path} has more than {MAX_PIXELS} pixels") from None
    except (OSError, ValueError, SyntaxError) as error:  # Pillow raises SyntaxError on some broken files
        problem = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(f"cannot read the image {path}: {problem}") from None
    if how.crop == "squash":
        return image.resize((width, height), Image.Resampling.BILINEAR)
    cover = max(height / image.height, width / image.width)
    factor = cover * how.resize / min(height, width)
    left, top = (image.width - width / factor) / 2, (image.height - height / factor) / 2
    box = (max(0.0, left), max(0.0, top), min(image.width, image.width - left), min(image.height, image.height - top))
    return image.resize((width, height), Image.Resampling.BILINEAR, box=box)


def _white(file: Any, path: Path) -> int:
    """The largest value that an opened image may hold.

    Raises:
        InputError: the format does not say.
    """
    is_16_bit = file.mode.startswith("I;16")
    if file.mode not in ("I", "F") and not is_16_bit:
        return 255
    if file.format == "TIFF" and file.tag_v2.get(_BITS_PER_SAMPLE) == (12,):
        return 4095
    if is_16_bit or (file.format, file.mode) == ("PPM", "I"):  # Pillow scales PGM of more than 8 bits to 16
        return 65535
    raise InputError(
        f"{path} holds grey values of unknown range, signed, of 32 bits or fractions: save it with 8 or 16 bits, "
        "or give the prepared values as .npy"
    )


def _as_bytes(values: Array, white: int) -> Array:
    """uint8 from whole ``values`` of 0 to ``white``, to the nearest."""
    return ((values.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)
