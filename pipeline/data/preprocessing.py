"""The recipe that turns an image into what a network takes, and its form in a model's metadata."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from pipeline.data.inputs import Array, InputSpec
from pipeline.errors import InputError

METADATA_KEY = "octet.preprocessing"
"""The key under which an ONNX file's ``metadata_props`` hold a recipe."""

CROPS, LAYOUTS, COLOURS = ("centre", "squash"), ("nchw", "nhwc"), ("rgb", "bgr")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MAX_PIXELS = 100_000_000

_LEAST_STEPS = 15
"""Of an integer input, from a black pixel to a white one: four bits are the least that still shows a picture."""


@dataclass(frozen=True)
class Preprocessing:
    """``(pixel * scale - mean) / std`` on an image brought to ``size``.

    Raises:
        InputError: a value is out of range.
    """

    size: tuple[int, int]
    """Height and width."""
    resize: int
    """Length of the shorter side that the image is scaled to before its centre is cut out."""
    crop: str
    """"centre" keeps the aspect ratio and cuts; "squash" does not."""
    mean: tuple[float, ...]
    """One a channel, in the order of ``colour``; so many channels there are."""
    std: tuple[float, ...]
    scale: float
    layout: str
    colour: str

    def __post_init__(self) -> None:
        height, width = self.size
        for name, value, allowed in (
            ("crop", self.crop, CROPS),
            ("layout", self.layout, LAYOUTS),
            ("colour", self.colour, COLOURS),
        ):
            if value not in allowed:
                raise InputError(f"preprocessing: {name} is {value!r}, not {' or '.join(allowed)}")
        if min(height, width) < 1 or height * width > MAX_PIXELS:
            raise InputError(f"preprocessing: size {height} x {width} is not between 1 and {MAX_PIXELS} pixels")
        if self.crop == "centre" and not min(height, width) <= self.resize <= 16 * max(height, width):
            raise InputError(f"resize {self.resize}: give at least {min(height, width)}, the size to be cut out")
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3):
            raise InputError(f"preprocessing: {len(self.mean)} means and {len(self.std)} stds; give 1 or 3 of each")
        if 0 in self.std or not all(math.isfinite(number) for number in (self.scale, *self.mean, *self.std)):
            raise InputError("scale, mean and std must be finite numbers, and std not 0")

    @property
    def channels(self) -> int:
        """1 (grey) or 3."""
        return len(self.mean)

    def __str__(self) -> str:
        how = f"shorter side to {self.resize}, centre" if self.crop == "centre" else "squashed"
        numbers = f"(pixel * {self.scale:.6g} - {_joined(self.mean)}) / {_joined(self.std)}"
        kind = self.colour if self.channels == 3 else f"{self.channels} channel"
        return f"{how} {self.size[0]}x{self.size[1]}, {kind}, {self.layout}, {numbers}"

    def normalise(self, pixels: Array) -> Array:
        """float32 in ``layout`` from RGB or grey ``pixels`` (…, height, width, channels) of 0..255."""
        values = pixels.astype(np.float32)
        if self.colour == "bgr" and self.channels == 3:
            values = values[..., ::-1]
        values = (values * np.float32(self.scale) - np.asarray(self.mean, "float32")) / np.asarray(self.std, "float32")
        return np.moveaxis(values, -1, -3) if self.layout == "nchw" else values

    def for_size(self, size: tuple[int, int]) -> Preprocessing:
        """The recipe for images of another size: the same part of them is cut out."""
        if size == self.size:
            return self
        share = min(size) / min(self.size)
        return replace(self, size=size, resize=max(min(size), min(round(share * self.resize), 16 * max(size))))

    def to_json(self) -> str:
        """One line of JSON, its keys in a fixed order."""
        return json.dumps(asdict(self), sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Preprocessing:
        """Read what :meth:`to_json` wrote.

        Raises:
            InputError: it is not JSON, or a field is missing, unknown or out of range.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"the stored preprocessing is not JSON: {error}") from None
        return cls.from_dict(data)

    @classmethod
    def from_dict(cls, data: Any) -> Preprocessing:
        """The recipe from its JSON object; raises InputError as :meth:`from_json` does."""
        if not isinstance(data, dict) or set(data) != set(cls.__dataclass_fields__):
            found = ", ".join(map(str, data)) if isinstance(data, dict) else type(data).__name__
            raise InputError(
                f"the stored preprocessing holds {found}; it needs exactly {', '.join(cls.__dataclass_fields__)}"
            )
        size, mean, std = data["size"], data["mean"], data["std"]
        numbers = all(isinstance(value, list) and all(map(_is_number, value)) for value in (size, mean, std))
        whole = numbers and len(size) == 2 and all(isinstance(side, int) for side in (*size, data["resize"]))
        if not whole or not _is_number(data["scale"]):
            raise InputError("the stored preprocessing has a size, resize, mean, std or scale that is not a number")
        return cls(
            size=(size[0], size[1]),
            resize=data["resize"],
            crop=data["crop"],
            mean=tuple(map(float, mean)),
            std=tuple(map(float, std)),
            scale=float(data["scale"]),
            layout=data["layout"],
            colour=data["colour"],
        )


def preprocessing_for(
    spec: InputSpec, options: Mapping[str, Any] | None = None, stored: Preprocessing | None = None
) -> Preprocessing:
    """The recipe for an input: what ``options`` say, else the recipe ``stored`` in the model, else the defaults.

    ``options`` holds values by the names of :class:`Preprocessing`'s fields; None counts as not given. The size comes
    from the input's shape where that is fixed. The stored recipe must have been made for that size, unless ``options``
    give it: then the recipe is adapted. By default the shorter side is scaled to what is cut out, pixels are scaled by
    1/255 (by 1 if some mean is above 1, thus in units of 0..255), and where none of scale, mean and std is given an
    input of three channels gets ImageNet's. An input of integers that are not codes of a quantisation gets the pixels
    as they are.

    Raises:
        InputError: the input takes no image, an option does not fit it, or the recipe makes numbers that its integers
            cannot hold or do not resolve.
    """
    given = {name: value for name, value in (options or {}).items() if value is not None}
    raw = np.dtype(spec.dtype).kind in "iu" and spec.quantization is None
    layout = given.get("layout", stored.layout if stored else _layout(spec))
    if layout not in LAYOUTS:
        raise InputError(f"layout is {layout!r}, not {' or '.join(LAYOUTS)}")
    channels, sides = _image_shape(spec, layout)
    if stored and (stored.channels != channels or not ("size" in given or _fits(stored.size, sides))):
        advice = "" if stored.channels != channels else "; give --size where the rest of it is right"
        raise InputError(
            f"the model's stored preprocessing makes {stored.channels} channels of {_times(stored.size)} "
            f"and input {spec} takes {channels} of {_times(sides)}; it was stored for another model{advice}"
        )
    size = _size(spec, sides, given.get("size") or (stored.size if stored else None))
    stored = stored.for_size(size) if stored else None
    imagenet = stored is None and not raw and channels == 3 and not {"scale", "mean", "std"} & given.keys()
    base_mean = stored.mean if stored else IMAGENET_MEAN if imagenet else (0.0,)
    base_std = stored.std if stored else IMAGENET_STD if imagenet else (1.0,)
    mean = _per_channel("mean", given.get("mean", base_mean), channels)
    std = _per_channel("std", given.get("std", base_std), channels)
    base_scale = stored.scale if stored else 1.0 if raw or max(map(abs, mean)) > 1 else 1 / 255
    recipe = Preprocessing(
        size=size,
        resize=int(given.get("resize", stored.resize if stored else min(size))),
        crop=given.get("crop", stored.crop if stored else "centre"),
        mean=mean,
        std=std,
        scale=float(given.get("scale", base_scale)),
        layout=layout,
        colour=given.get("colour", stored.colour if stored else "rgb"),
    )
    if raw:
        _check_integers(recipe, spec)
    return recipe


def fitted(recipe: Preprocessing, spec: InputSpec) -> Preprocessing:
    """``recipe`` for the size of the images that the input takes.

    It stays as it is where the size is open, and where the input takes no such images: that will be said to whoever
    prepares some, instead of taking defaults that may be wrong.
    """
    try:
        channels, (height, width) = _image_shape(spec, recipe.layout)
    except InputError:
        return recipe
    if height is None or width is None or channels != recipe.channels:
        return recipe
    return recipe.for_size((height, width))


def _check_integers(recipe: Preprocessing, spec: InputSpec) -> None:
    """Raise InputError where the values of pixels leave the integers of the input, or many of them become one."""
    limits = np.iinfo(spec.dtype)
    ends = recipe.normalise(np.repeat(np.array([0, 255], np.uint8), recipe.channels).reshape(2, 1, 1, -1))
    steps = np.ptp(ends, axis=0).min()
    if np.rint(ends.min()) < limits.min or np.rint(ends.max()) > limits.max or steps < _LEAST_STEPS:
        mean = 0 if limits.max >= 255 else 128
        raise InputError(
            f"preprocessing ({recipe}) makes {ends.min():.4g} to {ends.max():.4g} of pixels of 0 to 255, and input "
            f"{spec} takes whole numbers of {limits.min} to {limits.max}: give --scale 1 --mean {mean} --std 1, or a "
            ".npy file"
        )


def _image_shape(spec: InputSpec, layout: str) -> tuple[int, tuple[int | None, int | None]]:
    """Channels, and height and width, None where they are open."""
    if len(spec.shape) == 3:  # (batch, height, width): an image of one channel, read row by row
        channels: int | None = 1
        sides = spec.shape[1:]
    elif len(spec.shape) == 4:
        channels = spec.shape[1] if layout == "nchw" else spec.shape[3]
        sides = spec.shape[2:] if layout == "nchw" else spec.shape[1:3]
    else:
        raise InputError(f"input {spec} takes no image: it has not four dimensions; give a .npy file")
    if channels is None:
        channels = 3
    if channels not in (1, 3):
        as_nchw, as_nhwc = ("open" if spec.shape[axis] is None else spec.shape[axis] for axis in (1, 3))
        raise InputError(
            f"input {spec} takes no image: images have 1 or 3 channels, and it has {as_nchw} as nchw and {as_nhwc} as "
            "nhwc; give --layout or a .npy file"
        )
    height, width = sides
    return channels, (height, width)


def _size(spec: InputSpec, sides: tuple[int | None, int | None], wanted: Sequence[int] | None) -> tuple[int, int]:
    """Height and width: ``wanted``, or else what the input takes."""
    if wanted is not None and not _fits(wanted, sides):
        raise InputError(f"size {wanted[0]} {wanted[1]}: input {spec} takes {_times(sides)} pixels")
    height, width = sides if wanted is None else wanted
    if height is None or width is None:
        raise InputError(f"input {spec} leaves the size of its images open; give --size H W")
    return height, width


def _fits(size: Sequence[int], sides: tuple[int | None, int | None]) -> bool:
    return all(side in (None, want) for side, want in zip(sides, size, strict=True))


def _times(sides: Sequence[int | None]) -> str:
    return " x ".join("?" if side is None else str(side) for side in sides)


def _layout(spec: InputSpec) -> str:
    return "nhwc" if len(spec.shape) == 4 and spec.shape[3] in (1, 3) and spec.shape[1] not in (1, 3) else "nchw"


def _per_channel(option: str, values: Sequence[float], channels: int) -> tuple[float, ...]:
    if len(values) not in (1, channels):
        raise InputError(f"{option} has {len(values)} values: give 1 or {channels}")
    return tuple(map(float, values)) * (channels if len(values) == 1 else 1)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _joined(values: tuple[float, ...]) -> str:
    return f"{values[0]:g}" if len(set(values)) == 1 else "(" + ", ".join(f"{value:g}" for value in values) + ")"
