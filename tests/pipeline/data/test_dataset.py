"""The data set: re-iterable, lazy, seeded, and what is left out or refused."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from PIL import Image

from pipeline.data import InputSpec, load_data
from pipeline.errors import InputError

SPEC = InputSpec("x", (None, 3, 4, 5), "float32")
FIXED = InputSpec("x", (4, 3, 4, 5), "float32")
RAW = {"scale": 1.0, "mean": [0.0]}
IMAGES = np.random.default_rng(0).integers(0, 256, (10, 4, 5, 3), np.uint8)


@pytest.fixture
def archive(tmp_path):
    np.savez(tmp_path / "x.npz", images=IMAGES, labels=np.arange(10))
    return tmp_path / "x.npz"


@pytest.fixture
def folder(tmp_path):
    """Ten images 4x5."""
    for i, pixels in enumerate(IMAGES):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    return tmp_path


def stacked(data):
    return np.concatenate([inputs["x"] for inputs in data])


def test_folder_and_archive_are_the_same(folder, archive):
    """Image files and arrays of pixels go one way, twice if asked."""
    expected = IMAGES.transpose(0, 3, 1, 2).astype("float32")
    for path in (folder, archive):
        data = load_data(path, [SPEC], RAW)
        for _ in range(2):
            np.testing.assert_array_equal(stacked(data), expected)


@pytest.mark.parametrize("batch", [1, 3, 10])
def test_batches(archive, batch):
    batches = list(load_data(archive, [SPEC], RAW, batch=batch, classes=True).batches())
    assert [len(one) for one in batches] == [batch] * (10 // batch) + ([10 % batch] if 10 % batch else [])
    assert [label for one in batches for label in one.labels] == list(range(10))


def test_fixed_batch(archive):
    """A model compiled for four gets four; what does not fill a batch is no use for calibration, and was counted."""
    data = load_data(archive, [FIXED], RAW)
    assert [inputs["x"].shape[0] for inputs in data] == [4, 4]
    assert (len(data), data.used) == (10, 8)
    assert [len(one) for one in load_data(archive, [FIXED], RAW).batches()] == [4, 4, 2]
    with pytest.raises(InputError, match="3 samples do not fill one batch of 4"):
        list(load_data(archive, [FIXED], RAW, samples=3))
    with pytest.raises(InputError, match="batch 2: the model takes 4"):
        load_data(archive, [FIXED], RAW, batch=2)


def test_draw_is_seeded(archive):
    def drawn(seed):
        data = load_data(archive, [SPEC], RAW, samples=4, seed=seed, classes=True)
        return [label for one in data.batches() for label in one.labels]

    assert drawn(0) == drawn(0) == sorted(drawn(0))
    assert len({tuple(drawn(seed)) for seed in range(5)}) > 1
    assert len(load_data(archive, [SPEC], RAW, samples=99)) == 10


@pytest.mark.parametrize("name", ["x.npz", "x.npy"])
def test_memory_does_not_grow(tmp_path, name):
    """Ten times the images, the same memory."""
    peaks = []
    for count in (50, 500):
        array = np.zeros((count, 64, 64, 3), np.uint8)
        np.savez_compressed(tmp_path / name, images=array) if name == "x.npz" else np.save(tmp_path / name, array)
        del array
        data = load_data(tmp_path / name, [InputSpec("x", (None, 3, 64, 64), "float32")])
        tracemalloc.start()
        for _ in data:
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] + 100_000


def test_unreadable_images_are_left_out(folder):
    (folder / "3.png").write_bytes(b"no image")
    data = load_data(folder, [SPEC], RAW)
    for _ in range(2):
        np.testing.assert_array_equal(stacked(data), np.delete(IMAGES, 3, 0).transpose(0, 3, 1, 2))
    assert list(data.unreadable) == [str(folder / "3.png")]
    assert data.used == 9


def test_too_many_unreadable_images(folder):
    (folder / "3.png").write_bytes(b"no image")
    (folder / "5.png").write_bytes((folder / "6.png").read_bytes()[:60])
    with pytest.raises(InputError, match="2 of 10 images cannot be read, more than 10 %"):
        list(load_data(folder, [SPEC], RAW))


def test_only_image_is_unreadable(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(InputError, match="1 of 1 images cannot be read"):
        list(load_data(tmp_path, [SPEC], RAW))


def test_last_image_unreadable(folder):
    """The batch begun before it is not lost."""
    (folder / "9.png").write_bytes(b"")
    assert [len(one) for one in load_data(folder, [SPEC], RAW, batch=4).batches()] == [4, 4, 1]


def test_black_images_and_one_image(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "black.png")
    (only,) = load_data(tmp_path, [SPEC], RAW)
    assert only["x"].shape == (1, 3, 4, 5)
    assert not only["x"].any()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (IMAGES[:, :3], "needs 4x5 pixels of 3 channels"),
        (IMAGES[..., :1], "needs 4x5 pixels of 3 channels"),
        (IMAGES.astype("float32"), r"has shape \(4, 5, 3\) a sample"),
        (np.zeros((2, 3, 4, 5), "int64"), "cannot take that without loss"),
    ],
    ids=["size", "channels", "floats not prepared", "integers"],
)
def test_arrays_that_do_not_fit(tmp_path, array, message):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(InputError, match=message):
        list(load_data(tmp_path / "x.npy", [SPEC]))


def test_floats_go_in_as_they_are(tmp_path):
    array = np.random.default_rng(0).standard_normal((3, 3, 4, 5))
    np.save(tmp_path / "x.npy", array)
    np.testing.assert_array_equal(stacked(load_data(tmp_path / "x.npy", [SPEC])), array.astype("float32"))


def test_several_inputs(tmp_path):
    """Each by its name; images cannot feed such a model."""
    specs = [InputSpec("ids", (None, 7), "int64"), InputSpec("mask", (None, 7), "float32")]
    ids = np.arange(21, dtype="int32").reshape(3, 7)
    np.savez(tmp_path / "x.npz", ids=ids, mask=ids / 2)
    for index, inputs in enumerate(load_data(tmp_path / "x.npz", specs)):
        assert inputs["ids"].dtype == np.int64
        np.testing.assert_array_equal(inputs["mask"], ids[[index]].astype("float32") / 2)
    Image.fromarray(IMAGES[0]).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="has 2 inputs"):
        list(load_data(tmp_path / "a.png", specs))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_number_a_sample(tmp_path, dtype):
    """For t[n]: each became an array of one, and a batch of them t[n, 1]."""
    specs = [InputSpec("x", (None, 8), "float32"), InputSpec("t", (None,), "float32")]
    np.savez(tmp_path / "x.npz", x=np.zeros((5, 8), dtype), t=np.arange(5, dtype=dtype))
    got = [inputs["t"] for inputs in load_data(tmp_path / "x.npz", specs, batch=2)]
    assert [t.shape for t in got] == [(2,), (2,), (1,)]
    np.testing.assert_array_equal(np.concatenate(got), np.arange(5, dtype="float32"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "0 samples"),
        ({"seed": -1}, "seed -1"),
        ({"batch": -1}, "batch -1: give 1"),
        ({"batch": 0}, "batch 0: give 1"),
    ],
    ids=["samples", "seed", "batch", "batch 0"],
)
def test_arguments_that_make_no_sense(archive, options, message):
    """A batch of 0 counted as none given, and one below was told that the model takes None."""
    with pytest.raises(InputError, match=message):
        load_data(archive, [SPEC], RAW, **options)


def test_no_samples(tmp_path):
    for paths in ([], [tmp_path]):
        with pytest.raises(InputError, match="no"):
            load_data(paths, [SPEC])
