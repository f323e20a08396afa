"""The preprocessing recipe: its defaults, its JSON, and what does not fit."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from pipeline.data import InputSpec, Preprocessing, preprocessing_for
from pipeline.data.images import prepared
from pipeline.errors import InputError
from pipeline.runtime import Quantization

RGB = InputSpec("x", (None, 3, 6, 8), "float32")
CAFFE = Preprocessing((6, 8), 6, "squash", (104.0, 117.0, 123.0), (1.0, 1.0, 1.0), 1.0, "nchw", "bgr")


def test_json_round_trip():
    """What is stored in a model is what comes back, and the text is the same every time."""
    assert Preprocessing.from_json(CAFFE.to_json()) == CAFFE
    assert CAFFE.to_json() == dataclasses.replace(CAFFE).to_json()


def changed(**fields):
    return json.dumps(json.loads(CAFFE.to_json()) | fields)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "holds list"),
        ("{}", "it needs exactly size"),
        (changed(more=1), "it needs exactly"),
        (changed(size=[6]), "not a number"),
        (changed(size=[6.5, 8]), "not a number"),
        (changed(resize="6"), "not a number"),
        (changed(mean=[True, 1, 1]), "not a number"),
        (changed(mean=[]), "give 1 or 3"),
        (changed(std=[0, 1, 1]), "std not 0"),
        (changed(scale=float("nan")), "finite"),
        (changed(size=[10**6, 10**6]), "pixels"),
        (changed(crop="top"), "crop is 'top'"),
        (changed(layout=["nchw"]), "layout is"),
        (changed(colour=None), "colour is None"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_stored_recipes_that_make_no_sense(text, message):
    """A model file may come from anywhere: a bad recipe is an error, not a crash or a wrong picture."""
    with pytest.raises(InputError, match=message):
        Preprocessing.from_json(text)


def test_options_win_over_the_stored_recipe():
    got = preprocessing_for(RGB, {"crop": "centre", "resize": 7, "colour": None}, CAFFE)
    assert got == dataclasses.replace(CAFFE, crop="centre", resize=7)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((1, 1, 6, 8), {}, "was stored for another model$"),
        ((1, 1, 6, 8), {"size": (6, 8)}, "was stored for another model$"),
        ((1, 3, 12, 12), {"resize": 14}, "3 channels of 6 x 8 .* takes 3 of 12 x 12; .*; give --size"),
        ((1, 3, None, 12), {}, r"takes 3 of \? x 12"),
        ((1, 3, 6, 8), {"size": (12, 12)}, "size 12 12: input .* takes 6 x 8 pixels"),
    ],
    ids=str,
)
def test_recipe_of_another_model(shape, options, message):
    with pytest.raises(InputError, match=message):
        preprocessing_for(InputSpec("x", shape, "float32"), options, CAFFE)


@pytest.mark.parametrize("shape", [(1, 3, 299, 299), (None, 3, None, None)], ids=str)
@pytest.mark.parametrize(("given", "resize"), [({}, 342), ({"resize": 320}, 320)], ids=["as stored", "given"])
def test_size_given_wins_over_the_stored_one(shape, given, resize):
    """It used to be refused. As large a part of the picture is cut out as before: 224 of 256 are 299 of 342."""
    stored = dataclasses.replace(CAFFE, size=(224, 224), resize=256, crop="centre")
    got = preprocessing_for(InputSpec("x", shape, "float32"), {"size": (299, 299), **given}, stored)
    assert got == dataclasses.replace(stored, size=(299, 299), resize=resize)


@pytest.mark.parametrize(("size", "resize"), [((6, 8), 6), ((12, 16), 12), ((3, 3), 3), ((1, 9), 1)], ids=str)
def test_recipe_for_another_size_stays_a_recipe(size, resize):
    assert CAFFE.for_size(size) == dataclasses.replace(CAFFE, size=size, resize=resize)
    largest = dataclasses.replace(CAFFE, size=(2, 8), resize=128, crop="centre")
    assert min(size) <= largest.for_size(size).resize <= 16 * max(size)


@pytest.mark.parametrize(
    ("options", "scale"),
    [({"mean": [104, 117, 123]}, 1.0), ({"mean": [0.5]}, 1 / 255), ({"mean": [127.5], "scale": 2}, 2.0)],
    ids=["mean of bytes", "mean of fractions", "given"],
)
def test_scale_follows_the_units_of_the_mean(options, scale):
    """--mean 104 117 123 alone must not be taken from pixels of 0..1: every image would be the same."""
    assert preprocessing_for(RGB, options).scale == scale


def test_open_size_must_be_given():
    spec = InputSpec("x", (None, 3, None, None), "float32")
    with pytest.raises(InputError, match="leaves the size of its images open"):
        preprocessing_for(spec)
    assert preprocessing_for(spec, {"size": (6, 8)}).size == (6, 8)


PIXELS = np.arange(6 * 8 * 3, dtype="uint8").reshape(6, 8, 3)


@pytest.mark.parametrize("stored", ["height width channels", "channels height width"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_arrays_of_pixels(stored, layout):
    spec = InputSpec("x", (1, 3, 6, 8) if layout == "nchw" else (1, 6, 8, 3), "float32")
    pixels = PIXELS if stored.startswith("height") else PIXELS.transpose(2, 0, 1)
    got = prepared(pixels, spec, preprocessing_for(spec, {"scale": 1.0, "mean": [1, 2, 3]}), "x.npz[0]")
    expected = PIXELS.astype("float32") - [1, 2, 3]
    np.testing.assert_array_equal(got, expected.transpose(2, 0, 1) if layout == "nchw" else expected)


@pytest.mark.parametrize("shape", [(2, 6, 8), (2, 1, 6, 8), (2, 6, 8, 1)], ids=str)
def test_grey_without_a_dimension_for_it(shape):
    """MNIST stores 28x28; the model takes 1x28x28, or 28 rows of 28."""
    spec = InputSpec("x", shape, "float32")
    pixels = PIXELS[..., 0]
    got = prepared(pixels, spec, preprocessing_for(spec), "x")
    assert got.shape == shape[1:]
    np.testing.assert_array_equal(got.reshape(6, 8), pixels * np.float32(1 / 255))


@pytest.mark.parametrize("shape", [(8, 6, 3), (6, 8, 1), (6, 8), (1, 6, 8, 3)], ids=str)
def test_wrong_size_or_channels(shape):
    with pytest.raises(InputError, match=r"x.npz\[0\] holds images of shape .* needs 6x8 pixels of 3 channels"):
        prepared(np.zeros(shape, "uint8"), RGB, preprocessing_for(RGB), "x.npz[0]")


def test_quantised_input():
    spec = InputSpec("x", (1, 3, 6, 8), "int8", Quantization(2.0, -10))
    got = prepared(PIXELS, spec, preprocessing_for(spec, {"scale": 1.0}), "x")
    np.testing.assert_array_equal(got, np.rint(PIXELS / np.float32(2) - 10).transpose(2, 0, 1))


BYTES = InputSpec("x", (None, 6, 8, 3), "uint8")


def test_input_of_integers_gets_pixels_as_they_are():
    """ImageNet's mean and std used to make 0, 1 and 2 of them: a network that takes bytes normalises inside."""
    recipe = preprocessing_for(BYTES)
    assert (recipe.scale, recipe.mean, recipe.std) == (1.0, (0.0,) * 3, (1.0,) * 3)
    np.testing.assert_array_equal(prepared(PIXELS, BYTES, recipe, "x"), PIXELS)
    assert preprocessing_for(InputSpec("x", (1, 6, 8), "int32")).scale == 1.0


@pytest.mark.parametrize(
    ("dtype", "options", "stored", "message"),
    [
        ("uint8", {"scale": 1 / 255}, None, "makes 0 to 1 .* 0 to 255: give --scale 1 --mean 0 --std 1"),
        ("int64", {"mean": [0, 0, 127.5], "std": [1, 1, 127.5]}, None, "makes -1 to 255 "),
        ("uint8", {"mean": [104, 117, 123]}, None, "makes -123 to 151 "),
        ("uint8", {}, dataclasses.replace(CAFFE, layout="nhwc"), "makes -123 to 151 "),
        ("int8", {}, None, "makes 0 to 255 .* -128 to 127: give --scale 1 --mean 128 --std 1"),
    ],
    ids=["fractions", "one channel", "negative", "stored", "too large"],
)
def test_recipe_that_an_input_of_integers_cannot_hold(dtype, options, stored, message):
    """It used to be rounded and clipped without a word."""
    with pytest.raises(InputError, match=message):
        preprocessing_for(InputSpec("x", (None, 6, 8, 3), dtype), options, stored)
    advice = {"scale": 1.0, "mean": [128.0 if dtype == "int8" else 0.0], "std": [1.0]}
    assert preprocessing_for(InputSpec("x", (None, 6, 8, 3), dtype), advice, stored).scale == 1.0
