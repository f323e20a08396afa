"""Running the float model: what observers see, and in which pieces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import pipeline
from pipeline.errors import InputError
from pipeline.quantization import calibration
from pipeline.quantization.calibration import Tensors, Watched, calibrate
from pipeline.quantization.feeds import Feeds
from pipeline.quantization.model import load_float_graph
from pipeline.quantization.observers import MovingAverageObserver, Observer
from tests.pipeline.frontend.models import build
from tests.pipeline.quantization.networks import Net, batches, node, run, save


class Recorder(Observer):
    """Keeps all it sees."""

    def __init__(self) -> None:
        super().__init__(symmetric=False)
        self.seen: list[np.ndarray] = []

    def _observe(self, values: np.ndarray) -> None:
        self.seen.append(values)

    def _range(self) -> tuple[float, float]:
        return self.low, self.high


class PatientRecorder(Recorder):
    """The same in two passes."""

    passes = 2


def _network(tmp_path: Any, shape: tuple[int | str, ...] = ("N", 3, 8, 8)) -> Any:
    net = Net(shape).conv("x", "a").op("Relu", "a", "r").conv("r", "y", i=4)
    return load_float_graph(net.file(tmp_path, "y"))[0]


@pytest.mark.parametrize("budget", [2**30, 3000, 1], ids=["whole", "pieces", "single"])
@pytest.mark.parametrize("batch", ["N", 2], ids=["open", "fixed"])
def test_all_values_once_however_small_the_budget(tmp_path, monkeypatch, budget, batch):
    """Large batches are cut where the batch is open; else tensors are taken one after another."""
    monkeypatch.setattr(calibration, "RUN_BYTES", budget)
    graph = _network(tmp_path, (batch, 3, 8, 8))
    model, data = graph.to_model(), batches(3)
    names = ["x", "a", "r", "y"]
    seen: dict[str, list[np.ndarray]] = {name: [] for name in names}
    largest = 0
    for _, values in Tensors(graph, model, names, Feeds(data, graph.inputs)):
        largest = max(largest, sum(v.nbytes for n, v in values.items() if n != "x"))
        for name, value in values.items():
            seen[name].append(value)
    if budget == 3000:
        assert largest <= (3000 if batch == "N" else 3 * 2048)
    images = np.concatenate([d["x"] for d in data])
    np.testing.assert_array_equal(np.concatenate(seen["x"]), images)
    expected = [run(model, d)[0] for d in data]
    np.testing.assert_allclose(np.concatenate(seen["y"]), np.concatenate(expected), rtol=1e-4, atol=1e-5)
    assert {len(np.concatenate(seen[name])) for name in names} == {6}


def test_two_passes_and_one_side_by_side(tmp_path):
    graph = _network(tmp_path)
    once, twice = Recorder(), PatientRecorder()
    shares: list[float] = []
    watched = [Watched(["a", "r"], once), Watched(["y"], twice)]
    calibrate(graph, graph.to_model(), watched, Feeds(batches(3), graph.inputs), shares.append)
    assert len(once.seen) == 2 * 3
    assert len(twice.seen) == 2 * 3
    np.testing.assert_array_equal(np.concatenate(twice.seen[:3]), np.concatenate(twice.seen[3:]))
    assert shares == sorted(shares)


@pytest.mark.parametrize("budget", [2**30, 1], ids=["whole", "single"])
def test_moving_average_counts_batches_and_not_pieces(tmp_path, monkeypatch, budget):
    """It moved once a piece and tensor, so that what memory there was and what else was watched changed the range."""
    monkeypatch.setattr(calibration, "RUN_BYTES", budget)
    graph = _network(tmp_path)
    model, data = graph.to_model(), batches(3)
    observer = MovingAverageObserver(symmetric=False, averaging_constant=0.5)
    calibrate(graph, model, [Watched(["a", "r"], observer)], Feeds(data, graph.inputs), lambda _: None)
    seen = Recorder()
    calibrate(graph, model, [Watched(["a"], seen)], Feeds(data, graph.inputs), lambda _: None)
    lows, highs = ([f(batch) for batch in np.split(np.concatenate(seen.seen), 3)] for f in (np.min, np.max))
    assert observer.range() == pytest.approx(tuple(0.25 * a + 0.25 * b + 0.5 * c for a, b, c in (lows, highs)))


def test_generator_is_read_once(tmp_path):
    """A generator serves both passes, from temporary files."""
    graph = _network(tmp_path)
    feeds = Feeds((d for d in batches(2)), graph.inputs)
    first = [d["x"] for d in feeds]
    again = [d["x"] for d in feeds]
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    folder = feeds._spool._folder.name  # type: ignore[union-attr]
    feeds.close()
    with pytest.raises(FileNotFoundError):
        Path(folder, "0-0.npy").read_bytes()


def test_partly_read_generator_goes_on(tmp_path):
    """Looking at the first batch, for the sizes, must not lose the rest."""
    graph = _network(tmp_path)
    feeds = Feeds((d for d in batches(3)), graph.inputs)
    next(iter(feeds))
    assert len(list(feeds)) == 3


def test_function_as_data(tmp_path):
    graph = _network(tmp_path)
    feeds = Feeds(lambda: batches(3), graph.inputs, samples=5)
    assert [len(d["x"]) for d in feeds] == [2, 2, 1]
    with pytest.raises(InputError, match="samples 0"):
        Feeds(batches, graph.inputs, samples=0)


def _refilled(values: list[np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """One array, its values replaced for each batch."""
    array = np.empty_like(values[0])
    for value in values:
        array[...] = value
        yield {"x": array}


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("once", [True, False], ids=["generator", "function"])
def test_generator_that_refills_its_array(tmp_path, once, kind):
    """The next batch is read while the last one is computed and observed, and overwrote it."""
    graph = _network(tmp_path)
    values = [d["x"].astype(kind) for d in batches(3)]
    feeds = Feeds(_refilled(values) if once else lambda: _refilled(values), graph.inputs)
    tensors = Tensors(graph, graph.to_model(), ["x"], feeds)
    for _ in range(2):
        seen = [entry["x"] for _, entry in tensors]
        np.testing.assert_array_equal(seen, np.stack(values).astype(np.float32))
    feeds.close()


@pytest.mark.parametrize("sides", [(9, 7), (16, 8), (1, 8)], ids=str)
def test_samples_of_different_shapes(tmp_path, sides):
    """With open sizes they may differ; comparing them with the first one ended in an error of numpy's."""
    said: list[str] = []
    path = Net(("N", 3, "H", "W")).conv("x", "y").file(tmp_path, "y")
    data = [{"x": np.ones((10, 3, height, width), np.float32)} for height, width in ((8, 8), sides)]
    quantised = onnx.load(pipeline.quantize(path, data, output=tmp_path / "q.onnx", say=said.append))
    assert not [line for line in said if line.startswith("warning")], "neither few nor equal"
    assert run(quantised, data[1])[0].shape == (10, 4, *sides)


def test_scalar_stays_one(tmp_path):
    """It became an array of one, which a model of scalars does not take."""
    path = save(
        build([node("Abs", "t", "y")], {"t": (TensorProto.FLOAT, [])}, {"y": (TensorProto.FLOAT, [])}), tmp_path
    )
    graph, _ = load_float_graph(path)
    (feed,) = Feeds([{"t": np.array(3, np.float32)}], graph.inputs)
    assert feed["t"].shape == ()


@pytest.mark.parametrize(
    ("images", "doubts"),
    [
        (np.ones((1, 3, 8, 8)), ["calibrated on 1 sample;"]),
        (np.ones((20, 3, 8, 8)), ["all 20 calibration samples are equal"]),
        (np.arange(3 * 192).reshape(3, 3, 8, 8), ["calibrated on 3 samples;"]),
        (np.arange(20 * 192).reshape(20, 3, 8, 8), []),
    ],
    ids=["one", "equal", "few", "plenty"],
)
def test_doubts_about_the_data(tmp_path, images, doubts):
    """Of several batches, as equal samples may lie in different ones."""
    said: list[str] = []
    path = Net().conv("x", "y").file(tmp_path, "y")
    data = [{"x": part.astype(np.float32)} for part in np.array_split(images, min(3, len(images)))]
    pipeline.quantize(path, data, output=tmp_path / "q.onnx", bias_correction=False, say=said.append)
    assert len(said) == len(doubts)
    assert all(line.startswith(f"warning: {doubt}") for line, doubt in zip(said, doubts, strict=True))
