"""Image files of more than eight bits: what Pillow clips is scaled, and what has no known range is refused."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pipeline.data import InputSpec, preprocessing_for
from pipeline.data.images import read_image
from pipeline.errors import InputError

GREY, RGB = InputSpec("x", (None, 1, 4, 5), "float32"), InputSpec("x", (None, 3, 4, 5), "float32")
VALUES = (np.arange(20, dtype=np.uint16) * 3449).reshape(4, 5)


def read(path, spec):
    return read_image(path, spec, preprocessing_for(spec, {"scale": 1.0}))


def png(values):
    """A PNG of 16 bits: grey from (height, width), RGB from (height, width, 3)."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, 2 if values.ndim == 3 else 0, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(values, bits, order="<"):
    """A grey TIFF of 12 or 16 bits."""
    height, width = values.shape
    digits = np.array([[int(digit) for value in row for digit in f"{value:0{bits}b}"] for row in values])
    data = values.astype(f"{order}u2").tobytes() if bits == 16 else np.packbits(digits, axis=1).tobytes()
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(data)}
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags.items())
    start = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8 + len(data))
    return start + data + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


def pgm(values, white):
    return b"P5 5 4 %d\n" % white + values.astype(">u2").tobytes()


SIXTEEN, TWELVE = VALUES / 257, (VALUES >> 4) / 4095 * 255
DEEP = {
    "png": ("a.png", png(VALUES), SIXTEEN),
    "tiff": ("a.tif", tiff(VALUES, 16), SIXTEEN),
    "tiff, big-endian": ("a.tif", tiff(VALUES, 16, ">"), SIXTEEN),
    "tiff, 12 bits": ("a.tif", tiff(VALUES >> 4, 12), TWELVE),
    "pgm": ("a.pgm", pgm(VALUES, 65535), SIXTEEN),
    "pgm, 12 bits": ("a.pgm", pgm(VALUES >> 4, 4095), TWELVE),
}


@pytest.mark.parametrize("spec", [GREY, RGB], ids=["grey", "rgb"])
@pytest.mark.parametrize(("name", "data", "exact"), DEEP.values(), ids=DEEP)
def test_grey_of_more_than_eight_bits_is_scaled(tmp_path, name, data, exact, spec):
    """It was cut off at 255: nearly all of it white."""
    (tmp_path / name).write_bytes(data)
    assert np.abs(read(tmp_path / name, spec) - exact).max() < 0.51


def test_colours_of_sixteen_bits(tmp_path):
    """Pillow takes the upper byte."""
    (tmp_path / "a.png").write_bytes(png(np.stack([VALUES, VALUES // 2, VALUES // 3], -1)))
    np.testing.assert_array_equal(read(tmp_path / "a.png", RGB)[0], VALUES >> 8)


@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_grey_of_unknown_range_is_refused(tmp_path, dtype):
    """It was cut off at 255 too, and fractions of 0..1 were black."""
    Image.fromarray(VALUES.astype(dtype)).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match=r"a\.tif holds grey values of unknown range.*save it with 8 or 16 bits"):
        read(tmp_path / "a.tif", GREY)
