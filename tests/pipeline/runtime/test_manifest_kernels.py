"""The manifest's table of kernels."""

from __future__ import annotations

import dataclasses
import json

import pytest

from pipeline.errors import LibraryError
from pipeline.runtime import Kernel, Manifest
from tests.pipeline.conftest import AFFINE, SHA

KERNEL = Kernel("conv2d_n1", "/conv1/Conv", 10, 20, 30, 40)
MANIFEST = Manifest(
    "m.onnx", SHA, "llvm", ("sse2",), AFFINE.inputs, AFFINE.outputs, "0.1.0", "0.27.0", "0.1.14", 1, 0, SHA,
    kernels=(KERNEL, dataclasses.replace(KERNEL, node="images", steps=(dataclasses.replace(KERNEL, images=8),))),
)  # fmt: skip


def test_round_trip():
    assert Manifest.from_json(MANIFEST.to_json()) == MANIFEST


DAMAGE = {
    "not a list": ({}, "kernels is not a list"),
    "not an object": ([1], r"kernels\[0\] is not an object"),
    "without a field": ([{"name": "x"}], r"kernels\[0\] without images, macs, node"),
    "unknown field": ([{**dataclasses.asdict(KERNEL), "x": 1}], "with unknown x"),
    "negative": ([{**dataclasses.asdict(KERNEL), "macs": -1}], "macs is -1"),
    "fraction": ([{**dataclasses.asdict(KERNEL), "read_bytes": 0.5}], "read_bytes is 0.5"),
    "beyond 64 bits": ([{**dataclasses.asdict(KERNEL), "weight_bytes": 2**64}], "weight_bytes is"),
    "no image": ([{**dataclasses.asdict(KERNEL), "images": 0}], "images is 0"),
    "steps": ([{**dataclasses.asdict(KERNEL), "steps": 1}], "steps is not a list"),
    "steps of steps": (
        [dataclasses.asdict(dataclasses.replace(KERNEL, steps=(dataclasses.replace(KERNEL, steps=(KERNEL,)),)))],
        r"kernels\[0\]\.steps\[0\] is a step and has steps",
    ),
    "name": ([{**dataclasses.asdict(KERNEL), "name": None}], "name is None"),
    "too many": ([1] * 65537, "at most 65536"),
}


@pytest.mark.parametrize(("kernels", "message"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_table(kernels, message):
    data = {**json.loads(MANIFEST.to_json()), "kernels": kernels}
    with pytest.raises(LibraryError, match=message):
        Manifest.from_json(json.dumps(data))
