"""The networks of the speed comparison have the published amount of work and run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from experiments import zoo
from experiments.macs import count_macs, count_traffic, count_weights
from experiments.synthetic_images import HIGH, LOW, smooth_images

PUBLISHED_MMAC = {
    "resnet50": 4089,
    "resnet18": 1814,
    "mobilenet_v1": 569,
    "mobilenet_v2": 301,
    "squeezenet": 349,
    "googlenet": 1498,
    "alexnet": 714,
}


def test_every_network_has_a_published_count() -> None:
    assert set(zoo.NETWORKS) == set(PUBLISHED_MMAC)


@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_architecture_has_the_published_multiply_accumulates(name: str) -> None:
    """A wrong width, stride or branch shows up in the count."""
    assert count_macs(zoo.build(name)) / 1e6 == pytest.approx(PUBLISHED_MMAC[name], rel=0.01)


def test_same_seed_gives_the_same_file(tmp_path: Path) -> None:
    """Measurements on two machines are about the same weights."""
    first, second = (zoo.model_path("squeezenet", folder=tmp_path / name) for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["squeezenet-fp32.onnx"]


def test_activations_keep_a_usable_range_and_batch_is_dynamic(tmp_path: Path) -> None:
    """Exploding or vanishing activations would make calibration, and every comparison on the file, meaningless."""
    session = onnxruntime.InferenceSession(zoo.model_path("mobilenet_v2", folder=tmp_path))
    (logits,) = session.run(None, {"input": smooth_images(2, seed=1)})
    assert logits.shape == (2, 1000)
    assert np.isfinite(logits).all()
    assert 0.05 < logits.std() < 20
    assert not np.array_equal(logits[0], logits[1])


@pytest.mark.parametrize(("name", "kind"), [("resnet51", "fp32"), ("resnet50", "int4")])
def test_unknown_network_or_kind_is_named(name: str, kind: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="choose from"):
        zoo.model_path(name, kind, tmp_path)


def test_macs_are_counted_through_quantised_weights() -> None:
    """A QDQ file keeps its weights behind DequantizeLinear, where the counter must still find their shape."""
    nodes = [
        helper.make_node("DequantizeLinear", ["wq", "s", "z"], ["w"]),
        helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], group=2),
    ]
    initializers = [
        helper.make_tensor("wq", TensorProto.INT8, [6, 2, 3, 3], [1] * 108),
        helper.make_tensor("s", TensorProto.FLOAT, [], [0.1]),
        helper.make_tensor("z", TensorProto.INT8, [], [0]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 5, 7])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 6, 5, 7])
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y], initializers))
    onnx.checker.check_model(model)
    assert count_macs(model) == 6 * 5 * 7 * 2 * 9
    assert count_macs(model, batch=3) == 3 * 6 * 5 * 7 * 2 * 9


def test_traffic_counts_every_operand_once_and_weights_once_a_batch() -> None:
    """A byte a value: what the convolution and the addition read and write, the Relu being part of one."""
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["a"], kernel_shape=[1, 1]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Add", ["r", "x"], ["y"]),
    ]
    initializers = [
        helper.make_tensor("w", TensorProto.FLOAT, [4, 4, 1, 1], [1.0] * 16),
        helper.make_tensor("b", TensorProto.FLOAT, [4], [1.0] * 4),
    ]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4, 5, 5]) for name in "xy"]
    model = helper.make_model(helper.make_graph(nodes, "g", value[:1], value[1:], initializers))
    assert count_traffic(model, batch=2) == 16 + 2 * 100 * (2 + 3)
    assert count_weights(model) == 16


def test_calibration_images_look_like_normalised_photographs() -> None:
    images = smooth_images(3, size=64, seed=5)
    assert images.dtype == np.float32
    assert images.shape == (3, 3, 64, 64)
    assert images.min() >= LOW
    assert images.max() <= HIGH
    assert 0.5 < images.std() < 1.5
    neighbours = np.corrcoef(images[..., 1:].ravel(), images[..., :-1].ravel())[0, 1]
    assert neighbours > 0.9
