"""Every kind of file: what is read, lazily, and which damage is refused."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import zipfile

import numpy as np
import pytest
from PIL import Image

from pipeline.data.cifar import cifar
from pipeline.data.find import find_samples
from pipeline.data.labels import named_labels
from pipeline.data.mnist import idx
from pipeline.data.streams import npy, npz
from pipeline.errors import InputError

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 4, 5, 3), np.uint8)
LABELS = np.arange(7) % 3


def read_all(source):
    return list(source.items(range(len(source))))


def labels_of(source):
    return [item.label for item in read_all(source)]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "<i8", ">f4"])
def test_chosen_samples_of_npy_and_npz(tmp_path, dtype, order):
    """Samples in between are skipped, whatever the type and the order in the file."""
    array = np.asarray(np.arange(60).reshape(6, 5, 2), dtype, order=order)
    np.save(tmp_path / "x.npy", array)
    np.savez(tmp_path / "x.npz", x=array)
    np.savez_compressed(tmp_path / "z.npz", x=array)
    streams = [npy(tmp_path / "x.npy"), npz(tmp_path / "x.npz")["x"], npz(tmp_path / "z.npz")["x"]]
    for stream in streams:
        assert stream is not None
        np.testing.assert_array_equal(list(stream.read([1, 2, 5])), array[[1, 2, 5]])
        np.testing.assert_array_equal(list(stream.read([0])), array[[0]], err_msg="a second reading starts anew")


def idx_bytes(array):
    code = {"uint8": 0x08, "int32": 0x0C, "float32": 0x0D}[array.dtype.name]
    big_endian = array.astype(array.dtype.newbyteorder(">"))
    return struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape) + big_endian.tobytes()


@pytest.mark.parametrize("suffix", ["", ".gz"], ids=["plain", "gzip"])
@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32"])
def test_idx(tmp_path, dtype, suffix):
    array = IMAGES[..., 0].astype(dtype)
    path = tmp_path / f"x-idx3-ubyte{suffix}"
    path.write_bytes(gzip.compress(idx_bytes(array)) if suffix else idx_bytes(array))
    np.testing.assert_array_equal(list(idx(path).read([0, 3])), array[[0, 3]])


def test_mnist_finds_its_labels(tmp_path):
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(IMAGES[..., 0])))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(LABELS.astype("uint8"))))
    by_file = find_samples([tmp_path / "t10k-images-idx3-ubyte.gz"], ["x"], classes=True)
    assert labels_of(by_file) == list(LABELS)
    assert labels_of(find_samples([tmp_path], ["x"], classes=True)) == list(LABELS)


@pytest.mark.parametrize(("labels", "expected"), [(1, [3, 5]), (2, [3, 5])], ids=["CIFAR-10", "CIFAR-100, fine"])
def test_cifar(tmp_path, labels, expected):
    pixels = np.random.default_rng(1).integers(0, 256, (2, 3, 32, 32), np.uint8)
    coarse = [b"\x01", b"\x01"] if labels == 2 else [b"", b""]
    path = tmp_path / "test_batch.bin"
    path.write_bytes(
        b"".join(c + bytes([label]) + p.tobytes() for c, label, p in zip(coarse, expected, pixels, strict=True))
    )
    stream, split = cifar(path)
    got = [split(record) for record in stream.read(range(2))]
    assert [label for _, label in got] == expected
    np.testing.assert_array_equal([image for image, _ in got], pixels)
    assert labels_of(find_samples([path, path], ["x"])) == expected * 2


@pytest.mark.parametrize("name", ["x.npy", "x-idx3-ubyte", "x.bin", "."])
def test_single_array_cannot_feed_several_inputs(tmp_path, name):
    """It went to every input alike, also from a folder that holds nothing else."""
    contents = {"x-idx3-ubyte": idx_bytes(IMAGES[..., 0]), "x.bin": bytes(3073)}
    (tmp_path / (name if name in contents else "x.npy")).write_bytes(contents.get(name, npy_bytes(IMAGES)))
    with pytest.raises(InputError, match=r"the model has 2 inputs \(a, b\): give an \.npz with an array for each"):
        find_samples([tmp_path / name], ["a", "b"])


def save_images(folder, names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(IMAGES[0]).save(path)


def test_missing_label_file(tmp_path):
    """A typing error went unseen where the folders have names of classes, too."""
    save_images(tmp_path, ["cat/a.png", "dog/b.png"])
    with pytest.raises(InputError, match=r"cannot read .*typo\.txt"):
        find_samples([tmp_path], ["x"], tmp_path / "typo.txt")


def test_labels_txt(tmp_path):
    """Names with spaces and subfolders; an image that is not listed has no class; a listed one may be missing."""
    save_images(tmp_path, ["a b.png", "sub/c.png", "d.png"])
    (tmp_path / "labels.txt").write_text("# name class\na b.png 4\nsub/c.png, 2\n\ngone.png 1\n")
    items = {
        item.name.removeprefix(f"{tmp_path}/"): item.label
        for item in read_all(find_samples([tmp_path], ["x"], classes=True))
    }
    assert items == {"a b.png": 4, "sub/c.png": 2, "d.png": None, "gone.png": 1}


@pytest.mark.parametrize("name", ["a,b.png", "a, b.png", "a  b.png", "1 2.png", "1,2.png"])
@pytest.mark.parametrize("separator", [" ", ",", ", ", " , ", "\t"], ids=repr)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
def test_names_in_labels_txt(tmp_path, mark, name, separator):
    """Commas in a name became blanks, and the mark that Windows writes part of the first name."""
    (tmp_path / "labels.txt").write_bytes(mark + f"{name}{separator}3\nother 4\n".encode())
    assert named_labels(tmp_path / "labels.txt") == {name: 3, "other": 4}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["cat/1.png", "ant/2.png", "ant/3.png"], [0, 0, 1]),
        (["7/1.png", "12/1.png"], [12, 7]),
        (["one/1.png", "one/2.png"], [None, None]),
        (["1.png", "cat/2.png", "dog/3.png"], [None, None, None]),
        ([".cache/1.png", "ant/2.png", "cat/.git/3.png", "cat/4.png", ".5.png"], [0, 1]),
    ],
    ids=["names", "numbers", "one folder", "not all in folders", "hidden files and folders"],
)
def test_one_folder_a_class(tmp_path, names, expected):
    save_images(tmp_path, names)
    assert labels_of(find_samples([tmp_path], ["x"], classes=True)) == expected


def test_class_folders_that_are_links(tmp_path):
    """They held no images. A link that leads back, to a folder around it, is not followed: it has no end."""
    save_images(tmp_path, ["store/a/1.png", "store/b/2.png", "store/b/deep/3.png"])
    root = tmp_path / "root"
    root.mkdir()
    for name, target in {"ant": "store/a", "cat": "store/b"}.items():
        (root / name).symlink_to(tmp_path / target)
    for name, target in {"a/self": "store/a", "b/up": "store", "b/root": "root", "b/all": "."}.items():
        (tmp_path / "store" / name).symlink_to(tmp_path / target)
    source = find_samples([root], ["x"], classes=True)
    assert [item.name for item in read_all(source)] == [
        str(root / name) for name in ("ant/1.png", "cat/2.png", "cat/deep/3.png")
    ]
    assert labels_of(source) == [0, 1, 1]


@pytest.mark.parametrize("folder", ["bee", "bee/empty", "zoo"])
def test_class_folder_without_images(tmp_path, folder):
    """It was passed over, and each class after it had the number of the one before. A hidden one is no class."""
    save_images(tmp_path, ["ant/1.png", "cat/2.png"])
    (tmp_path / ".bees").mkdir()
    assert labels_of(find_samples([tmp_path], ["x"], classes=True)) == [0, 1]
    (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(InputError, match=f"no images in {folder[:3]}: remove what is no class"):
        find_samples([tmp_path], ["x"], classes=True)


def test_numbered_class_folder_without_images(tmp_path):
    save_images(tmp_path, ["7/1.png", "12/2.png"])
    (tmp_path / "8").mkdir()
    assert labels_of(find_samples([tmp_path], ["x"], classes=True)) == [12, 7]


def test_other_label_files(tmp_path):
    np.save(tmp_path / "x.npy", IMAGES)
    np.save(tmp_path / "l.npy", LABELS)
    np.savez(tmp_path / "l.npz", labels=LABELS, other=IMAGES)
    (tmp_path / "l.txt").write_text("\n".join(map(str, LABELS)))
    (tmp_path / "l-idx1-ubyte").write_bytes(idx_bytes(LABELS.astype("uint8")))
    for name in ("l.npy", "l.npz", "l.txt", "l-idx1-ubyte"):
        assert labels_of(find_samples([tmp_path / "x.npy"], ["x"], tmp_path / name)) == list(LABELS), name


def test_npz_by_input_name_or_by_custom(tmp_path):
    np.savez(tmp_path / "two.npz", b=LABELS, a=IMAGES, labels=LABELS)
    (item, *_) = read_all(find_samples([tmp_path / "two.npz"], ["a", "b"]))
    assert set(item.content) == {"a", "b"}
    np.savez(
        tmp_path / "one.npz", images=IMAGES, labels=LABELS, names=np.array(["x"] * 7), classes=np.array(["a", "b"])
    )
    assert labels_of(find_samples([tmp_path / "one.npz"], ["input"], classes=True)) == list(LABELS)
    with pytest.raises(InputError, match="it needs an array named a and one named b"):
        find_samples([tmp_path / "one.npz"], ["a", "b"])


def npy_bytes(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def zipped(name, data):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return buffer.getvalue()


HUGE = npy_bytes(np.zeros((2, 3), "uint8")).replace(b"(2, 3), }", b"(2, 3" + b"0" * 12 + b"), }")
BAD = {
    "missing": ("none.npy", None, "there is no such file or folder"),
    "unknown kind": ("x.csv", b"1,2", "is of no known kind"),
    "pickle": ("data_batch_1", pickle.dumps({"data": 1}), "is a pickle, and reading one can run any code"),
    "npy of objects": ("x.npy", npy_bytes(np.array([{}], object), allow_pickle=True), "can run code when read"),
    "npz of objects": ("x.npz", zipped("x.npy", npy_bytes(np.array([{}], object), allow_pickle=True)), "can run code"),
    "scalar": ("x.npy", npy_bytes(np.array(3)), "is a single number"),
    "text": ("x.npy", npy_bytes(np.array(["a"])), "not numbers"),
    "empty npy": ("x.npy", b"", "cannot read"),
    "claims much": ("x.npy", HUGE, "samples of 30"),
    "not a zip": ("x.npz", b"PK", "cannot read"),
    "zip of something": ("x.npz", zipped("a.txt", b"a"), "holds no arrays"),
    "cut cifar": ("x.bin", bytes(3000), "not a multiple of 3073"),
    "empty cifar": ("x.bin", b"", "not a multiple of 3073"),
    "not idx": ("x-idx3-ubyte", b"\x89PNG\r\n", "is not an idx file"),
    "cut idx header": ("x-idx3-ubyte", b"\0\0\x08\x03\0\0", "cut short"),
    "cut idx": ("x-idx3-ubyte", idx_bytes(IMAGES[..., 0])[:-1], "cut short"),
    "no samples": ("x.npy", npy_bytes(np.zeros((0, 3))), "no samples in"),
}


@pytest.mark.parametrize(("name", "data", "message"), BAD.values(), ids=BAD)
def test_bad_files(tmp_path, name, data, message):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_all(find_samples([tmp_path / name], ["x"]))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.npy", npy_bytes(IMAGES)[:-1]),
        ("x-idx3-ubyte.gz", gzip.compress(idx_bytes(IMAGES[..., 0]))[:-20]),
        ("x.npz", zipped("x.npy", npy_bytes(IMAGES)[:-1])),
    ],
    ids=["npy", "gzip", "npz"],
)
def test_data_cut_short(tmp_path, name, data):
    """Found while reading, with the number of the sample or the name of the file."""
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=name):
        read_all(find_samples([tmp_path / name], ["x"]))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": IMAGES, "labels": LABELS[:-1]}, "not the same number of samples"),
        ({"images": IMAGES, "labels": LABELS / 2}, "labels are one whole number a sample"),
        ({"images": IMAGES, "labels": LABELS[:, None]}, "labels are one whole number a sample"),
    ],
    ids=["count", "fractions", "shape"],
)
def test_labels_that_do_not_fit(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(InputError, match=message):
        find_samples([tmp_path / "x.npz"], ["x"], classes=True)
    assert labels_of(find_samples([tmp_path / "x.npz"], ["x"])) == [None] * 7, "not asked for, and so not read"


@pytest.mark.parametrize("line", ["a.png", "a.png one", "3", "a.png -1"])
def test_bad_lines_of_labels(tmp_path, line):
    save_images(tmp_path, ["a.png"])
    (tmp_path / "labels.txt").write_text(f"a.png 1\n{line}\n")
    with pytest.raises(InputError, match=r"labels\.txt, line 2"):
        find_samples([tmp_path], ["x"], classes=True)
    assert labels_of(find_samples([tmp_path], ["x"])) == [None], "not asked for, and so not read"


def test_folders_that_say_too_little(tmp_path):
    with pytest.raises(InputError, match="holds no images"):
        find_samples([tmp_path], ["x"])
    np.save(tmp_path / "a.npy", IMAGES)
    assert len(find_samples([tmp_path], ["x"])) == 7
    np.save(tmp_path / "b.npy", IMAGES)
    with pytest.raises(InputError, match=r"holds a.npy, b.npy: name the file"):
        find_samples([tmp_path], ["x"])


def test_folder_of_pickles(tmp_path):
    """CIFAR's Python version, unpacked: the message says what to download instead."""
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps({}))
    with pytest.raises(InputError, match="take the binary version of CIFAR"):
        find_samples([tmp_path], ["x"])
