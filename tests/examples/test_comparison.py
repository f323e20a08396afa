"""What the demo reports: agreement, steps, batches and the samples that users bring."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from examples.comparison import (
    Arrays,
    Samples,
    accuracy,
    compare,
    output_steps,
    read_samples,
    run_all,
    time_in_turns,
)
from pipeline.errors import InputError

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"


def test_compare_counts_classes_and_steps() -> None:
    """Rounding the division up or down would hide a whole step or invent one."""
    theirs = np.array([[0.0, 0.5], [1.0, 0.5], [0.0, 1.0]], np.float32)
    ours = np.array([[0.0, 0.5], [0.5, 1.0], [0.0, 1.0]], np.float32)
    found = compare(ours, theirs, step=0.25)
    assert (found.samples, found.same_class, found.steps, found.difference) == (3, 2, 2, 0.5)


def test_compare_does_not_wrap_around_in_uint8() -> None:
    assert compare(np.array([[0, 9]], np.uint8), np.array([[1, 9]], np.uint8), 1.0).steps == 1


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (4,), (3, 1)], ids=["feature map", "vector", "one score"])
def test_only_vectors_of_scores_have_classes(shape: tuple[int, ...]) -> None:
    found = compare(np.zeros(shape), np.zeros(shape), None)
    assert found.same_class is None
    assert found.steps is None


def test_accuracy_ignores_labels_of_samples_that_filled_no_batch() -> None:
    assert accuracy(np.eye(3)[:2], np.array([0, 0, 2])) == 50


def test_batches_are_whole() -> None:
    """A library has a fixed batch: a shorter last one would be refused."""
    samples = Samples({"x": np.arange(7), "y": np.arange(14).reshape(7, 2)})
    assert [len(batch["x"]) for batch in samples.batches(3)] == [3, 3]
    assert run_all(lambda inputs: {"z": inputs["y"]}, samples.batches(3))["z"].shape == (6, 2)


def test_output_step_is_the_scale_of_the_last_dequantize() -> None:
    model = onnx.load(DIGITS / "digits_qdq.onnx")
    (step,) = output_steps(DIGITS / "digits_qdq.onnx").values()
    last = next(node for node in model.graph.node if node.output[0] == "logits")
    scale = next(tensor for tensor in model.graph.initializer if tensor.name == last.input[1])
    assert step == pytest.approx(float(onnx.numpy_helper.to_array(scale)))
    assert output_steps(DIGITS / "digits_fp32.onnx") == {}


def test_integer_output_has_steps_of_one(tmp_path: Path) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 2])
    y = helper.make_tensor_value_info("y", TensorProto.UINT8, [1, 2])
    onnx.save(
        helper.make_model(helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])),
        tmp_path / "m.onnx",
    )
    assert output_steps(tmp_path / "m.onnx") == {"y": 1.0}


def test_networks_are_timed_in_turns() -> None:
    """Measuring one engine after the other would charge a slow moment of the machine to one of them."""
    order: list[str] = []

    def network(name: str) -> Arrays:
        if order[-1:] != [name]:
            order.append(name)
        time.sleep(0.001)
        return {}

    networks = {"a": lambda _: network("a"), "b": lambda _: network("b")}
    medians = time_in_turns(networks, {}, seconds=0.05)
    assert order == ["a", "b"] * (len(order) // 2)
    assert len(order) >= 10
    assert all(median >= 1 for median in medians.values())


def test_samples_come_by_input_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", image=np.zeros((4, 2)), labels=np.arange(4), other=np.zeros(9))
    samples = read_samples(tmp_path / "s.npz", ["image"])
    assert len(samples) == 4
    assert list(samples.inputs) == ["image"]
    assert samples.labels is not None


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"picture": np.zeros((4, 2))}, "also needs image"),
        ({"image": np.zeros((4, 2)), "labels": np.zeros(3)}, "same number of samples"),
        ({"image": np.float32(1)}, "same number of samples"),
        ({"image": np.zeros((0, 2))}, "at least one"),
        ({"image": np.array([None])}, "cannot read"),
    ],
    ids=["wrong name", "labels too few", "scalar", "empty", "pickled objects"],
)
def test_bad_samples_are_refused_in_one_line(tmp_path: Path, arrays: Arrays, message: str) -> None:
    np.savez(tmp_path / "s.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        read_samples(tmp_path / "s.npz", ["image"])


@pytest.mark.parametrize(
    "content", [None, b"", b"not an archive", b"PK\x03\x04 cut"], ids=["absent", "empty", "text", "cut archive"]
)
def test_files_that_are_no_archive_are_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "s.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="cannot read"):
        read_samples(path, ["image"])


def test_a_single_array_is_not_an_archive(tmp_path: Path) -> None:
    """np.load gives an array, not an archive, for an .npy file whatever its name."""
    with (tmp_path / "s.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(InputError, match="cannot read"):
        read_samples(tmp_path / "s.npz", ["image"])
