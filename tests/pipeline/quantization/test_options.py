"""What callers choose: numbers of numpy are as good as Python's, and what is no choice is refused before any work."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.quantization.options import make_options


def test_numpy_numbers():
    """They got as far as the file's metadata, after all the work: "int64 is not JSON serializable"."""
    choices: dict[str, Any] = {
        "weight_bits": np.int64(4),
        "skip_first": np.uint8(1),
        "symmetric": np.bool_(True),
        "observer_options": {"percentile": np.float32(99.5), "bits": np.int32(8)},
    }
    stored = json.loads(json.dumps(make_options(None, **choices).to_json()))
    assert {name: stored[name] for name in choices} == {
        "weight_bits": 4,
        "skip_first": 1,
        "symmetric": True,
        "observer_options": {"percentile": 99.5, "bits": 8},
    }


def test_none_is_the_default():
    """For ``sensitivity`` and ``mixed_precision`` the default of ``quantize(bias_correction=None)`` meant False."""
    assert make_options(None, bias_correction=None, weight_range=None) == make_options(None)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("weight_bits", 8.0, "weight_bits 8.0: give a whole number"),
        ("skip_last", "1", "skip_last '1': give a whole number"),
        ("equalize", "no", "equalize 'no': give True or False"),
        ("observer_options", {"percentile": "high"}, "percentile 'high': give a number"),
        ("observer_options", {"percentile": np.ones(2)}, "percentile array([1., 1.]): give a number"),
        ("observer_options", ["percentile"], "give a dictionary of numbers by name"),
        ("include", {"head": 1}, "include {'head': 1}: give a regular expression as a string, or a list of them"),
        ("exclude", re.compile("head"), "exclude re.compile('head'): give a regular expression as a string"),
        ("exclude", ["head", 1], "exclude ['head', 1]: give a regular expression as a string"),
    ],
    ids=lambda value: repr(value) if not isinstance(value, str) else "",
)
def test_wrong_types_name_the_option(option, value, message):
    """A raw TypeError, or a file that did something else than was asked for."""
    with pytest.raises(InputError, match=re.escape(message)):
        make_options(None, **{option: value})
