"""``octet run``: data through a library."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.cli.images import Images, add_image_arguments
from pipeline.cli.inputs import Array, assign, read
from pipeline.cli.progress import progress_bar
from pipeline.errors import InputError
from pipeline.network import run_batch
from pipeline.outputs import check_output, write_output
from pipeline.runtime import Model, TensorInfo, load

HELP = "run a library on images or arrays"
DESCRIPTION = """\
Runs a library on images, .npy or .npz files and prints the best classes of each,
or writes the outputs to a file.
This loads the library and runs its code: use it only on libraries you trust."""
EPILOG = """\
examples:
  octet run model.so photo.jpg --labels classes.txt
  octet run model.so *.jpg --top-k 1 --resize 256              the usual ImageNet crop
  octet run model.so photo.jpg --scale 1 --mean 104 117 123 --colour bgr
  octet run model.so images.npy --output logits.npy            any number of samples along the first dimension
  octet run model.so ids=ids.npy mask=mask.npy --output out.npz   any number here, too
"""
Outputs = dict[str, Array]
Arrays = Mapping[str, Array]
Batches = Iterator[tuple[list[str], Arrays, float]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("library", metavar="LIB.so", help="what `octet compile` wrote")
    parser.add_argument("inputs", metavar="INPUT", nargs="+", help="image, .npy or .npz; NAME=FILE for several inputs")
    parser.add_argument("--top-k", type=int, default=5, metavar="K", help="classes to print (default: 5)")
    parser.add_argument("--labels", metavar="FILE", help="names of the classes, one a line")
    parser.add_argument("--output", "-o", metavar="FILE", help="write the outputs to this .npy or (by name) .npz")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of a call (default: all physical cores)")
    add_image_arguments(parser)


def main(options: argparse.Namespace) -> None:
    if options.top_k < 1:
        raise InputError(f"--top-k {options.top_k}: give 1 or more")
    model = load(options.library, options.threads)
    if options.output and not _fits(options.output, len(model.outputs)):
        raise InputError(f"--output {options.output}: give .npz, or .npy for a model with one output")
    files = assign(options.inputs, model.inputs)
    if options.output:
        read_too = [options.library, options.labels, *(path for paths in files.values() for path in paths)]
        check_output(options.output, keep=read_too)
    labels = _labels(options.labels) if options.labels else None
    titles, outputs = _run(model, files, options)
    if options.output:
        save = {name: np.asarray(array) for name, array in outputs.items()}
        if options.output.endswith(".npz"):
            write_output(options.output, lambda file: np.savez(file, allow_pickle=False, **save))
        else:
            write_output(options.output, lambda file: np.save(file, next(iter(save.values())), allow_pickle=False))
        print(f"{options.output}: " + ", ".join(f"{name} {array.dtype}{array.shape}" for name, array in save.items()))
    elif _has_classes(model):
        print(top_classes(titles, next(iter(outputs.values())), model.outputs[0], options.top_k, labels))
    else:
        print("\n".join(_summary(name, array) for name, array in outputs.items()))


def _run(model: Model, files: Mapping[str, Sequence[Path]], options: argparse.Namespace) -> tuple[list[str], Outputs]:
    """What each sample is called, and the outputs of all samples joined along the first dimension."""
    images = Images(options, model.manifest)
    if len(model.inputs) == 1:
        batches = _samples(files[model.inputs[0].name], model.inputs[0], images)
    else:
        batches = _samples_of_several(files, model.inputs, images)
    titles: list[str] = []
    results: list[Outputs] = []
    with progress_bar(verbose=options.verbose) as progress:
        for names, samples, done in batches:
            batch = model.inputs[0].shape[0] if _are_samples(samples, model.inputs) else None
            results.append(run_batch(lambda inputs: _by_name(model, model(dict(inputs))), samples, batch))
            titles += names
            progress("running", done)
    if not results:
        raise InputError(f"there are no samples in {', '.join(options.inputs)}")
    return titles, {
        name: np.concatenate([result[name] for result in results]) if len(results) > 1 else results[0][name]
        for name in results[0]
    }


def _are_samples(arrays: Arrays, inputs: Sequence[TensorInfo]) -> bool:
    """Whether the first dimension of every input is the batch, and every array has as many samples along it."""
    counts = {array.shape[:1] for array in arrays.values()}
    batches = {info.shape[:1] for info in inputs}
    alike = all(arrays[info.name].shape[1:] == info.shape[1:] for info in inputs)
    return alike and len(counts) == len(batches) == 1 and any(len(info.shape) > 1 for info in inputs)


def _samples_of_several(files: Mapping[str, Sequence[Path]], inputs: Sequence[TensorInfo], images: Images) -> Batches:
    """As :func:`_samples` for a model of several inputs, each with one file; samples have no names of their own."""
    for name, paths in files.items():
        if len(paths) != 1:
            raise InputError(f"input {name!r} gets {len(paths)} files, 1 needed: give NAME=FILE for each input")
    arrays = {info.name: read(files[info.name][0], info, images.read) for info in inputs}
    if not _are_samples(arrays, inputs):
        yield [], arrays, 1.0  # whole; if a shape is wrong, the model says so
        return
    count, batch = len(arrays[inputs[0].name]), inputs[0].shape[0]
    for start in range(0, count, batch):
        end = min(start + batch, count)
        yield [], {name: array[start:end] for name, array in arrays.items()}, end / count


def _samples(paths: Sequence[Path], info: TensorInfo, images: Images) -> Batches:
    """Batches for a model's only input, what each sample is called, and how much is done (0 to 1).

    The last batch may be short. Each file may hold one sample, a batch or any number of samples. Arrays of uint8 for a
    float input are images.
    """
    titles: list[str] = []
    waiting: list[Array] = []
    for number, path in enumerate(paths):
        array = read(path, info, images.read)
        pixels = images.are_pixels(array, info)
        if pixels:
            array = array[None] if array.ndim == len(info.shape) - 1 else array
        elif len(info.shape) < 2 or array.shape[1:] != info.shape[1:]:
            # Whole; if its shape is wrong, the model says so.
            yield [str(path)], {info.name: array}, (number + 1) / len(paths)
            continue
        for i, sample in enumerate(array):
            titles.append(str(path) if len(array) == 1 else f"{path}[{i}]")
            waiting.append(images.prepare(sample, info, str(path)) if pixels else sample)
            if len(waiting) == info.shape[0]:
                yield titles, {info.name: np.stack(waiting)}, (number + (i + 1) / len(array)) / len(paths)
                titles, waiting = [], []
    if waiting:
        yield titles, {info.name: np.stack(waiting)}, 1.0


def top_classes(titles: Sequence[str], scores: Array, info: TensorInfo, k: int, labels: Sequence[str] | None) -> str:
    """The ``k`` best classes of each sample, one a line: class, score, label."""
    values = scores.reshape(len(titles), -1).astype("float64")
    if info.quantization:
        values = (values - info.quantization.zero_point) * info.quantization.scale
    classes = values.shape[1]
    if labels is not None and len(labels) != classes:
        raise InputError(f"--labels has {len(labels)} lines and the output has {classes} classes")
    lines = []
    for title, row in zip(titles, values, strict=True):
        lines.append(title)
        for best in np.argsort(-row, kind="stable")[:k]:
            label = f"  {labels[best]}" if labels is not None else ""
            lines.append(f"  {best:>5}  {row[best]:>10.4f}{label}")
    return "\n".join(lines)


def _by_name(model: Model, result: Array | Outputs) -> Outputs:
    return result if isinstance(result, dict) else {model.outputs[0].name: result}


def _has_classes(model: Model) -> bool:
    """Whether the only output is a row of scores for each sample of the only input."""
    if len(model.inputs) != 1 or len(model.outputs) != 1 or len(model.outputs[0].shape) < 2:
        return False
    (batch, *scores), samples = model.outputs[0].shape, model.inputs[0].shape[:1]
    return samples == (batch,) and 1 < math.prod(scores) == max(scores)


def _summary(name: str, array: Array) -> str:
    text = f"{name}: {array.dtype}{array.shape}"
    if array.size and array.dtype != bool:
        text += f", {array.min():g} to {array.max():g}, mean {array.mean(dtype='float64'):g}"
    return text


def _fits(path: str, outputs: int) -> bool:
    return path.endswith(".npz") or (path.endswith(".npy") and outputs == 1)


def _labels(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read --labels {path}: {error}") from None
