"""Top-1, top-5, agreement and per-class counts, and models that are no classifiers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.accuracy import measure_accuracy, rank
from pipeline.data import InputSpec, ModelDescription, load_data
from pipeline.errors import InputError
from pipeline.network import Network

SCORES = np.array(
    [[9, 1, 2, 3, 4, 5, 0], [0, 9, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0, 6], [7, 7, 0, 0, 0, 0, 0]], "float32"
)
"""The best classes are 0, 1, 6, and 0 by tie."""


def network(function, batch: int | None = None) -> Network:
    spec = InputSpec("x", (batch, 7), "float32")
    return Network(Path("model.so"), "test", ModelDescription((spec,), None), ("y",), function)


def identity(inputs):
    return {"y": next(iter(inputs.values()))}


@pytest.fixture
def data(tmp_path):
    def make(labels, scores=SCORES, batch: int | None = None):
        if labels is None:
            np.savez(tmp_path / "x.npz", x=scores)
        else:
            np.savez(tmp_path / "x.npz", x=scores, labels=np.array(labels))
        return load_data(tmp_path / "x.npz", [InputSpec("x", (batch, 7), "float32")], batch=batch, classes=True)

    return make


@pytest.mark.parametrize("batch", [1, 3, 4])
def test_counts(data, batch):
    """Ties go to the class of the lower number in top-1 and top-5 alike, whatever the batch."""
    result = measure_accuracy(network(identity), data([0, 6, 5, 1], batch=batch))
    assert (result.samples, result.labelled, result.right, result.right_in_5) == (4, 4, 1, 3)
    assert (result.top1, result.top5, result.agreement) == (25.0, 75.0, None)


def test_rank_agrees_with_a_stable_sort():
    rng = np.random.default_rng(0)
    for _ in range(200):
        scores = rng.integers(0, 5, 9)
        order = list(np.argsort(-scores, kind="stable"))
        assert [rank(scores, label) for label in range(9)] == [order.index(label) for label in range(9)]


def test_fixed_batch_is_filled_up(data):
    """A library for batches of three runs four samples: the last two calls' fillers count for nothing."""

    def strict(inputs):
        assert inputs["x"].shape == (3, 7)
        return identity(inputs)

    result = measure_accuracy(network(strict, 3), data([0, 1, 6, 0], batch=3))
    assert (result.samples, result.right) == (4, 4)


def test_reference_may_name_its_input_otherwise(data):
    def other(inputs):
        assert set(inputs) == {"image"}
        return {"scores": -next(iter(inputs.values()))}

    spec = InputSpec("image", (None, 7), "float32")
    reference = Network(Path("float.onnx"), "test", ModelDescription((spec,), None), ("scores",), other)
    result = measure_accuracy(network(identity), data([0, 0, 5, 2]), reference=reference)
    assert (result.agreeing, result.agreement) == (0, 0.0)
    assert (result.reference_right, result.reference_top1) == (3, 75.0)
    assert measure_accuracy(network(identity), data(None), reference=network(identity)).agreement == 100.0


def test_per_class(data):
    result = measure_accuracy(network(identity), data([0, 1, 1, 2]), per_class=True)
    assert {label: (one.samples, one.right, one.wrongly) for label, one in result.per_class.items()} == {
        0: (1, 1, 1), 1: (2, 1, 0), 2: (1, 0, 0), 6: (0, 0, 1),
    }  # fmt: skip
    text = json.dumps(result.to_json(), allow_nan=False)
    assert json.loads(text)["per_class"]["1"]["recall"] == 50.0


def test_background_class(data):
    assert measure_accuracy(network(identity), data([5, 5, 5, 5]), label_offset=1).right == 1


def test_few_classes_have_no_top5(data):
    pair = network(lambda inputs: {"y": inputs["x"][:, :2, None, None]})
    result = measure_accuracy(pair, data([0, 1, 0, 0]))
    assert (result.top1, result.top5) == (100.0, None)


@pytest.mark.parametrize(
    ("function", "labels", "message"),
    [
        (identity, None, "no classes and there is no reference"),
        (identity, [0, 0, 0, 7], "has class 7 and the model has 7 classes"),
        (lambda inputs: {"y": inputs["x"].reshape(-1)}, [0] * 4, "one row of scores a sample"),
        (lambda _: {"y": np.zeros((1, 2, 3), "float32")}, [0] * 4, "one row of scores a sample"),
        (lambda inputs: {"y": inputs["x"], "z": inputs["x"]}, [0] * 4, "has the outputs y, z"),
        (lambda inputs: {"y": inputs["x"] * np.nan}, [0] * 4, "holds NaN"),
    ],
    ids=["no labels", "label out of range", "flat", "map", "two outputs", "nan"],
)
def test_refused(data, function, labels, message):
    with pytest.raises(InputError, match=message):
        measure_accuracy(network(function), data(labels))


def test_chosen_output(data):
    both = network(lambda inputs: {"y": inputs["x"], "z": -inputs["x"]})
    assert measure_accuracy(both, data([0, 1, 6, 0]), output="y").right == 4
    assert measure_accuracy(both, data([0, 1, 6, 0]), output="z").right == 0
