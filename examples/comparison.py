"""Compares a compiled library with onnxruntime: the same inputs, how often they agree, how fast each is."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import onnx
import onnxruntime as ort

from pipeline.errors import InputError

Arrays = dict[str, np.ndarray]
Network = Callable[[Arrays], Arrays]
"""Inputs of one batch by name to outputs by name."""

ROUNDS = 10
SETTLE_SECONDS = 0.02  # worker threads of the previous engine spin for a while before they sleep


@dataclass(frozen=True)
class Samples:
    """Inputs by name, their first dimension being the sample, and the right class of each sample if known."""

    inputs: Arrays
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def batches(self, size: int) -> list[Arrays]:
        """Whole batches of ``size`` samples; what does not fill the last one is left out."""
        return [
            {name: values[start : start + size] for name, values in self.inputs.items()}
            for start in range(0, len(self) - size + 1, size)
        ]


@dataclass(frozen=True)
class Agreement:
    """How two engines' results for one output differ."""

    samples: int
    same_class: int | None
    """How many samples have the same largest element; None for outputs that are not one vector a sample."""
    steps: int | None
    """Largest difference in quantisation steps; None where the output is not quantised."""
    difference: float
    """Largest difference of two elements."""


def onnxruntime_network(path: Path, threads: int) -> Network:
    """The ONNX file under onnxruntime on ``threads`` threads."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def octet_network(model: Any) -> Network:
    """A library that :func:`pipeline.runtime.load` loaded, its result always a dict."""
    (only, *others) = [output.name for output in model.outputs]
    return model if others else lambda inputs: {only: model(inputs)}


def run_all(network: Network, batches: Sequence[Arrays]) -> Arrays:
    """Every batch through the network, the results joined."""
    results = [network(batch) for batch in batches]
    return {name: np.concatenate([np.atleast_1d(result[name]) for result in results]) for name in results[0]}


def accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Percentage of the samples whose largest score is the right class."""
    return float(100 * np.mean(np.argmax(scores, axis=1) == labels[: len(scores)]))


def output_steps(path: Path) -> dict[str, float]:
    """The quantisation step of each graph output that a per-tensor DequantizeLinear or integers make."""
    graph = onnx.load(path).graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}
    steps = {}
    for output in graph.output:
        node = producers.get(output.name)
        if onnx.helper.tensor_dtype_to_np_dtype(output.type.tensor_type.elem_type).kind in "iu":
            steps[output.name] = 1.0
        elif node is not None and node.op_type == "DequantizeLinear" and node.input[1] in constants:
            scale = constants[node.input[1]]
            if scale.size == 1:
                steps[output.name] = float(scale.reshape(-1)[0])
    return steps


def compare(ours: np.ndarray, theirs: np.ndarray, step: float | None) -> Agreement:
    """Compare one output, both arrays (samples, ...), whose quantisation step is ``step`` if it has one."""
    difference = float(np.max(np.abs(ours.astype(np.float64) - theirs.astype(np.float64)), initial=0))
    is_scores = ours.ndim == 2 and ours.shape[1] > 1
    same = int(np.sum(np.argmax(ours, axis=1) == np.argmax(theirs, axis=1))) if is_scores else None
    return Agreement(len(ours), same, None if step is None else round(difference / step), difference)


def time_in_turns(networks: Mapping[str, Network], inputs: Arrays, seconds: float) -> dict[str, float]:
    """Median milliseconds of a call to each network; they take turns (A B A B), so that all meet the same machine.

    Each of :data:`ROUNDS` rounds gives each network a share of ``seconds``, and a few calls before that do not count.
    """
    share = seconds / (ROUNDS * len(networks))
    samples: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(ROUNDS):
        for name, network in networks.items():
            time.sleep(SETTLE_SECONDS)
            for _ in range(3):
                network(inputs)
            stop = time.perf_counter() + share
            before = time.perf_counter()
            while before < stop:
                network(inputs)
                after = time.perf_counter()
                samples[name].append(after - before)
                before = after
    return {name: 1e3 * statistics.median(times) for name, times in samples.items()}


def read_samples(path: Path, names: Sequence[str]) -> Samples:
    """Samples from an ``.npz`` file: one array for each input by its name, first dimension the sample; ``labels``.

    Raises:
        InputError: the file cannot be read, lacks an input, or the arrays do not hold the same number of samples.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            arrays = {name: data[name] for name in data.files}
    except (OSError, EOFError, ValueError, AttributeError, TypeError, BadZipFile) as error:
        raise InputError(f"cannot read {path} as an .npz file: {error}") from None
    missing = [name for name in names if name not in arrays]
    if missing:
        raise InputError(f"{path} holds {', '.join(arrays) or 'nothing'}; the model also needs {', '.join(missing)}")
    samples = Samples({name: arrays[name] for name in names}, arrays.get("labels"))
    counted = [*samples.inputs.values()] + ([] if samples.labels is None else [samples.labels])
    lengths = {len(array) if array.ndim else 0 for array in counted}
    if len(lengths) != 1 or 0 in lengths:
        raise InputError(f"{path}: give every input and the labels the same number of samples, at least one")
    return samples
