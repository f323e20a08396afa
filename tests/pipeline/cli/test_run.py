"""``octet run``: images and arrays in, classes or arrays out."""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.cli.images import add_image_arguments, image_options
from pipeline.cli.main import _Parser, main
from pipeline.data import InputSpec, preprocessing_for
from pipeline.data.images import read_image
from pipeline.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from pipeline.errors import InputError
from pipeline.runtime import Quantization

X = np.arange(4 * 1024, dtype="float32").reshape(4, 1024)
A = np.array([[1, 2, 3], [4, 5, 6]], "int8")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: object) -> int:
    return main(["run", *map(str, arguments)])


def prepare(
    path: Path,
    shape: tuple[int, ...],
    *arguments: object,
    dtype: str = "float32",
    quantization: Quantization | None = None,
) -> Any:
    """What ``octet run`` with ``arguments`` feeds to an input of this shape."""
    parser = _Parser()
    add_image_arguments(parser)
    spec = InputSpec("x", shape, dtype, quantization)
    options = image_options(parser.parse_args(list(map(str, arguments))))
    return read_image(path, spec, preprocessing_for(spec, options))[None]


@pytest.fixture
def picture(tmp_path):
    """A 6 x 8 picture (h x w) whose red is the column, green the row, blue 200."""
    pixels = np.zeros((6, 8, 3), "uint8")
    pixels[..., 0], pixels[..., 1], pixels[..., 2] = np.arange(8), np.arange(6)[:, None], 200
    path = tmp_path / "p.png"
    Image.fromarray(pixels).save(path)
    return path, pixels


def test_default_is_imagenet(picture):
    path, pixels = picture
    expected = (pixels / 255 - IMAGENET_MEAN) / IMAGENET_STD
    np.testing.assert_allclose(prepare(path, (1, 3, 6, 8))[0], expected.transpose(2, 0, 1), atol=1e-5)


def test_raw_pixels_are_exact(picture):
    path, pixels = picture
    got = prepare(path, (1, 3, 6, 8), "--scale", 1)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got[0], pixels.transpose(2, 0, 1))


def test_nhwc_is_seen_from_the_shape(picture):
    path, pixels = picture
    np.testing.assert_array_equal(prepare(path, (1, 6, 8, 3), "--scale", 1)[0], pixels)
    np.testing.assert_array_equal(prepare(path, (1, 6, 8, 3), "--scale", 1, "--layout", "nhwc")[0], pixels)


def test_bgr_with_mean_a_channel(picture):
    """The mean is in the order of the channels that the network sees."""
    path, pixels = picture
    got = prepare(path, (1, 3, 6, 8), "--colour", "bgr", "--scale", 1, "--mean", 104, 117, 123)
    np.testing.assert_array_equal(got[0, 0], pixels[..., 2] - np.float32(104))


def test_centre_crop_keeps_the_aspect_ratio(picture):
    path, pixels = picture
    np.testing.assert_array_equal(prepare(path, (1, 3, 6, 6), "--scale", 1)[0], pixels[:, 1:7].transpose(2, 0, 1))
    got = prepare(path, (1, 3, 4, 4), "--scale", 1, "--resize", 6)
    np.testing.assert_array_equal(got[0], pixels[1:5, 2:6].transpose(2, 0, 1))


def test_squash_does_not(picture):
    path, _ = picture
    got = prepare(path, (1, 3, 6, 4), "--scale", 1, "--crop", "squash")[0, 0, 0]
    np.testing.assert_allclose(got, [0.5, 2.5, 4.5, 6.5], atol=0.76)


def test_quantised_input(picture):
    """An input of int8 wants codes of its scale; pixels as they are would be read as another picture."""
    path, pixels = picture
    got = prepare(path, (1, 3, 6, 8), "--scale", 1, dtype="uint8", quantization=Quantization(2.0, 10))
    np.testing.assert_array_equal(got[0], np.rint(pixels / 2 + 10).transpose(2, 0, 1))
    got = prepare(path, (1, 3, 6, 8), "--scale", 1, dtype="int8", quantization=Quantization(1.0, 0))
    assert got[0, 2].max() == 127


def test_grey(picture):
    path, _ = picture
    grey = np.asarray(Image.open(path).convert("L"), "float32") / np.float32(255)
    np.testing.assert_allclose(prepare(path, (1, 1, 6, 8))[0, 0], grey, rtol=1e-6)


def test_photo_is_turned_upright(tmp_path):
    """Phones store the picture as the sensor saw it and note how it was held."""
    pixels = np.zeros((4, 8, 3), "uint8")
    pixels[0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "p.png"
    Image.fromarray(pixels).save(path, exif=exif)
    got = prepare(path, (1, 3, 8, 4), "--scale", 1)[0, 0]
    np.testing.assert_array_equal(got[:, -1], 255)
    assert got[:, 0].max() == 0


@pytest.mark.parametrize(
    ("shape", "arguments", "message"),
    [
        ((1, 10), [], "has not four dimensions"),
        ((1, 32, 32, 4), [], "1 or 3 channels, and it has 32 as nchw and 4 as nhwc"),
        ((1, 3, 6, 8), ["--layout", "nhwc"], "3 as nchw and 8 as nhwc; give --layout"),
        ((1, 3, 6, 8), ["--size", 8, 6], "takes 6 x 8 pixels"),
        ((1, 3, 6, 8), ["--size", 8, 6, 3], "--size has 3 numbers"),
        ((1, 3, 6, 8), ["--mean", 1, 2], "mean has 2 values: give 1 or 3"),
        ((1, 3, 6, 8), ["--std", 0], "std not 0"),
        ((1, 3, 6, 8), ["--resize", 5], "at least 6"),
        ((1, 3, 6, 8), ["--resize", 0], "at least 6"),
        ((1, 3, 6, 8), ["--resize", 10**6], "resize"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_image_options_that_do_not_fit(picture, shape, arguments, message):
    """``--resize 0`` used to count as not given, and a side of an image of RGBA as its channels."""
    with pytest.raises(InputError, match=message):
        prepare(picture[0], shape, *arguments)


def png(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is not an image"),
        (b"hello", "is not an image"),
        (png(20_000, 20_000), "pixels"),
        (png(2**30, 2**30), "pixels"),
        (png(8, 6), "cannot read the image"),
    ],
    ids=["empty", "text", "large", "bomb", "cut"],
)
def test_bad_images(tmp_path, data, message):
    path = tmp_path / "p.png"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message):
        prepare(path, (1, 3, 6, 8))


def test_top_classes_of_several_images(libraries, folder, picture, capsys):
    (folder / "labels.txt").write_text("".join(f"class {i}\n" for i in range(144)))
    arguments = ["--scale", 1, "--top-k", 2, "--labels", "labels.txt"]
    assert run(libraries["image"], picture[0], picture[0], *arguments) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert len(lines) == 6
    assert lines[1].split() == ["96", "200.0000", "class", "96"]
    assert "image: shorter side to 6, centre 8x6, rgb, nchw, (pixel * 1 - 0) / 1" in captured.err


def test_many_samples_in_one_file(libraries, folder):
    """A test set is one array; the library runs one batch at a time."""
    x = np.arange(5 * 144, dtype="float32").reshape(5, 3, 8, 6)
    np.save("x.npy", x)
    assert run(libraries["image"], "x.npy", "-o", "y.npy") == 0
    np.testing.assert_array_equal(np.load("y.npy"), x.reshape(5, 144))
    assert sorted(entry.name for entry in folder.iterdir()) == ["x.npy", "y.npy"]


@pytest.mark.usefixtures("folder")
def test_bytes_are_pixels(libraries):
    """An array of uint8 for a float input is prepared as image files are, not refused and not fed raw."""
    pixels = np.arange(2 * 144, dtype="uint32").astype("uint8").reshape(2, 8, 6, 3)
    np.save("x.npy", pixels)
    assert run(libraries["image"], "x.npy", "--scale", "1/2", "--mean", 1, "-o", "y.npy") == 0
    expected = pixels.transpose(0, 3, 1, 2).astype("float32") / 2 - 1
    np.testing.assert_array_equal(np.load("y.npy"), expected.reshape(2, 144))


@pytest.mark.usefixtures("folder")
def test_samples_are_gathered_into_batches(libraries):
    np.save("half.npy", X[:2])
    assert run(libraries["affine"], "half.npy", "half.npy", "-o", "y.npy") == 0
    np.testing.assert_array_equal(np.load("y.npy"), np.concatenate([X[:2], X[:2]]) * 2 + 1)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("count", [1, 3, 6])
def test_number_of_samples_that_is_no_multiple_of_the_batch(libraries, count):
    """--help promises any number; what fills up the last batch is no result."""
    x = np.arange(count * 1024, dtype="float32").reshape(count, 1024)
    np.save("x.npy", x)
    assert run(libraries["affine"], "x.npy", "-o", "y.npy") == 0
    np.testing.assert_array_equal(np.load("y.npy"), x * 2 + 1)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("shape", "name"), [((10,), "busy"), ((), "busy"), ((), "affine"), ((2, 1025), "affine")])
def test_array_of_another_shape_is_not_filled_up(libraries, capsys, shape, name):
    """Only samples are: the first dimension of ``busy`` is not a batch of them."""
    np.save("x.npy", np.zeros(shape, "float32"))
    assert run(libraries[name], "x.npy") == 2
    assert f"has shape {shape}" in capsys.readouterr().err


@pytest.mark.usefixtures("folder")
def test_batch_dimension_of_one_may_be_missing(libraries):
    np.save("x.npy", np.ones((3, 8, 6), "float32"))
    assert run(libraries["image"], "x.npy", "-o", "y.npz") == 0
    assert np.load("y.npz")["scores"].shape == (1, 144)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "arguments",
    [["a.npy", "b.npy"], ["b=b.npy", "a=a.npy"], ["b=b.npy", "a.npy"], ["both.npz"], ["a.npy", "b=both.npz"]],
    ids=" ".join,
)
def test_several_inputs(libraries, capsys, arguments):
    np.save("a.npy", A)
    np.save("b.npy", 2 * A)
    np.savez("both.npz", a=A, b=2 * A)
    assert run(libraries["pair"], *arguments, "-o", "y.npz") == 0
    with np.load("y.npz") as outputs:
        assert sorted(outputs) == ["constant", "same", "sum"]
        np.testing.assert_array_equal(outputs["sum"], 3 * A)
        np.testing.assert_array_equal(outputs["same"], A)
    assert run(libraries["pair"], *arguments) == 0
    assert "sum: int8(2, 3), 3 to 18, mean 10.5" in capsys.readouterr().out


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("count", [1, 2, 5])
def test_any_number_of_samples_of_several_inputs(libraries, count):
    """They used to need whole batches, unlike those of a lone input."""
    a = np.arange(3 * count, dtype="int8").reshape(count, 3)
    np.savez("both.npz", a=a, b=2 * a)
    assert run(libraries["pair"], "both.npz", "-o", "y.npz") == 0
    with np.load("y.npz") as outputs:
        np.testing.assert_array_equal(outputs["sum"], 3 * a)


@pytest.mark.usefixtures("folder")
def test_inputs_of_unlike_numbers_of_samples(libraries, capsys):
    np.savez("both.npz", a=A, b=A[:1])
    assert run(libraries["pair"], "both.npz", "-o", "y.npz") == 2
    assert "has shape (1, 3), (2, 3) needed" in capsys.readouterr().err


def npz(claimed_bytes: int) -> bytes:
    """An archive whose only member, a thousand zeros, claims another size."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", bytes(1000))
    data = bytearray(buffer.getvalue())
    entry = data.rindex(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = claimed_bytes.to_bytes(4, "little")
    return bytes(data)


NPY = io.BytesIO()
np.save(NPY, X)
PICKLED = io.BytesIO()
np.save(PICKLED, np.array([{}], object), allow_pickle=True)

BAD_FILES = {
    "missing": ("none.npy", None, "there is no such file"),
    "kind": ("x.csv", b"1,2", "give .npy, .npz or an image"),
    "empty npy": ("x.npy", b"", "cannot read x.npy"),
    "cut npy": ("x.npy", NPY.getvalue()[:-1], "cannot read x.npy"),
    "cut npy header": ("x.npy", NPY.getvalue()[:20], "cannot read x.npy"),
    "pickle": ("x.npy", PICKLED.getvalue(), "cannot read x.npy"),
    "not a zip": ("x.npz", b"PK", "cannot read x.npz"),
    "empty zip": ("x.npz", b"PK\x05\x06" + bytes(18), "has no array 'x'; it holds nothing"),
    "zip bomb": ("x.npz", npz(2**32 - 2), "array 'x' has 4294967294 bytes"),
    "zip without array": ("x.npz", npz(1000), "x.npz: 'x' is not an array"),
}


@pytest.mark.parametrize(("name", "data", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_files(libraries, folder, capsys, name, data, message):
    if data is not None:
        (folder / name).write_bytes(data)
    assert run(libraries["affine"], name, "-o", "y.npy") == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1
    assert not (folder / "y.npy").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.npy", "-o", "y.txt"], "give .npz, or .npy"),
        (["x.npy", "-o", "none/y.npy"], "cannot write none/y.npy"),
        (["x.npy", "-o", "x.npy"], "the same file is read or written too"),
        (["x.npy", "--top-k", "0"], "--top-k 0"),
        (["x.npy", "--labels", "none.txt"], "cannot read --labels none.txt"),
        (["x.npy", "--labels", "three.txt"], "3 lines and the output has 1024 classes"),
        (["double.npy"], "dtype float64, float32 needed"),
        (["wide.npy"], "has shape (4, 1025), (4, 1024) needed"),
        (["empty.npy"], "there are no samples in empty.npy"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refused(libraries, folder, capsys, arguments, message):
    np.save("x.npy", X)
    np.save("double.npy", X.astype("float64"))
    np.save("wide.npy", np.zeros((4, 1025), "float32"))
    np.save("empty.npy", X[:0])
    (folder / "three.txt").write_text("a\nb\nc\n")
    assert run(libraries["affine"], *arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("folder")
def test_wrong_number_of_files(libraries, capsys):
    np.save("a.npy", A)
    assert run(libraries["pair"], "a.npy") == 2
    assert "give one file for each, in this order or as NAME=FILE" in capsys.readouterr().err
