"""Real images, preprocessed as each real model wants them. The models and the images are not part of the project.

They live in a folder of third-party data, ``models/<name>/`` and ``data/<set>/``: the one that the environment
variable OCTET_SHARED names, else ``shared`` beside the checkout.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

DEFAULT_FOLDER = Path(os.environ.get("OCTET_SHARED") or Path(__file__).resolve().parents[2] / "shared")

# Mean and deviation of ImageNet's channels, by which resnet20 was trained.
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)
_CAFFE_BGR_MEAN = np.array([104, 117, 123], np.float32)

Pixels = np.ndarray
"""(height, width, 3) or (count, height, width, 3), RGB, 0..255."""


@dataclass(frozen=True)
class Recipe:
    """How the input of one model is made of a set of images."""

    data: str
    """The folder under data/."""
    normalise: Callable[[Pixels], np.ndarray]
    """float32 0..255 RGB, channels last, to what the model takes, channels last."""
    resize: Callable[[Image.Image], Image.Image] | None = None
    """For a folder of JPEG files; None for an archive of arrays in the right size."""
    first_class: int = 0
    """The model's number of the class that the labels call 0."""


def _squash(size: int) -> Callable[[Image.Image], Image.Image]:
    """The whole picture, its aspect lost."""
    return lambda image: image.resize((size, size), Image.Resampling.BILINEAR)


def _centre_crop(size: int, shorter_side: int) -> Callable[[Image.Image], Image.Image]:
    """The middle ``size`` x ``size`` of the picture scaled to ``shorter_side``."""

    def crop(image: Image.Image) -> Image.Image:
        scale = shorter_side / min(image.size)
        width, height = (round(side * scale) for side in image.size)
        left, top = (width - size) // 2, (height - size) // 2
        return image.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))

    return crop


RECIPES: dict[str, Recipe] = {
    "resnet20-cifar10": Recipe("cifar10", lambda x: (x / 255 - _MEAN) / _STD),
    "mlperf-ic-resnet8": Recipe("cifar10", lambda x: x),
    "mlperf-vww-mobilenetv1-0.25": Recipe("vww128", lambda x: x / 255),
    "squeezenet1.1": Recipe("imagenet-samples", lambda x: x[..., ::-1] - _CAFFE_BGR_MEAN, _squash(227)),
    # Class 0 of these two is the background.
    "mobilenetv1-coral-qat": Recipe("imagenet-samples", lambda x: (x - 128) / 128, _centre_crop(224, 256), 1),
    "mobilenetv2-keras-ptq": Recipe("imagenet-samples", lambda x: (x - 127.5) / 127.5, _centre_crop(224, 256), 1),
}


def load(model: str, limit: int | None = None, folder: Path = DEFAULT_FOLDER) -> tuple[np.ndarray, np.ndarray]:
    """(inputs, labels) for the model in ``models/<model>``: float32 NCHW, and int64 in the model's own class numbers.

    At most ``limit`` images, from the start of the set. Raises FileNotFoundError with what to do where the data is
    missing, KeyError for a model without a recipe.
    """
    recipe = RECIPES[model]
    data = check_folder(folder) / "data" / recipe.data
    pixels, labels = _read_archive(data, limit) if recipe.resize is None else _read_jpegs(data, recipe.resize, limit)
    return _inputs(recipe, pixels), labels.astype(np.int64) + recipe.first_class


def load_training(model: str, limit: int, folder: Path = DEFAULT_FOLDER) -> np.ndarray | None:
    """The inputs of :func:`load` for the first ``limit`` images of the training set; None where the set has none."""
    recipe = RECIPES[model]
    archives = sorted((check_folder(folder) / "data" / recipe.data).glob("train*.npz"))
    if not archives:
        return None
    with np.load(archives[0], allow_pickle=False) as archive:
        return _inputs(recipe, archive["images"][:limit])


def check_folder(folder: Path) -> Path:
    """The folder, or FileNotFoundError where it is not one of models and data."""
    if not ((folder / "models").is_dir() and (folder / "data").is_dir()):
        raise FileNotFoundError(
            f"{folder} has no folders 'models' and 'data'. The real models and images are third-party data and do not "
            "come with Octet; name the folder that holds them with --shared or the environment variable OCTET_SHARED."
        )
    return folder


def _inputs(recipe: Recipe, pixels: Pixels) -> np.ndarray:
    normalised = recipe.normalise(pixels.astype(np.float32)).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(normalised, np.float32)


def _read_archive(folder: Path, limit: int | None) -> tuple[Pixels, np.ndarray]:
    """From an .npz file of test images: cifar10/test10k.npz holds the test set, vww128/vww128.npz all there is."""
    (path,) = sorted(p for p in folder.glob("*.npz") if not p.stem.startswith("train"))
    with np.load(path, allow_pickle=False) as archive:
        return archive["images"][:limit], archive["labels"][:limit]


def _read_jpegs(
    folder: Path, resize: Callable[[Image.Image], Image.Image], limit: int | None
) -> tuple[Pixels, np.ndarray]:
    """From the JPEG files that labels.txt lists, one ``<file name> <class>`` a line."""
    lines = (folder / "labels.txt").read_text(encoding="utf-8").splitlines()[:limit]
    images, labels = [], []
    for line in lines:
        name, label = line.rsplit(maxsplit=1)
        with Image.open(folder / name) as image:
            images.append(np.asarray(resize(image.convert("RGB"))))
        labels.append(int(label))
    return np.stack(images), np.array(labels)
