"""How often a classifier is right, and how often it agrees with another one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.data import Dataset
from pipeline.errors import InputError
from pipeline.network import Network

Array = npt.NDArray[Any]
MAX_TOP = 5


@dataclass
class ClassAccuracy:
    """Of one class: how many samples, how many of them were given this class, and how often others were."""

    samples: int = 0
    right: int = 0
    wrongly: int = 0

    @property
    def recall(self) -> float:
        """Percentage of the class's samples that were recognised; NaN without samples."""
        return 100 * self.right / self.samples if self.samples else float("nan")


@dataclass
class Accuracy:
    """The result for one model. Shares are percentages, and None where there is nothing to take them of."""

    samples: int = 0
    labelled: int = 0
    unreadable: int = 0
    classes: int = 0
    right: int = 0
    right_in_5: int = 0
    agreeing: int | None = None
    """Samples that the reference gives the same class; None without a reference."""
    reference_right: int | None = None
    per_class: dict[int, ClassAccuracy] = field(default_factory=dict)

    @property
    def top1(self) -> float | None:
        """Percentage of the labelled samples whose largest score is the right class."""
        return _percent(self.right, self.labelled)

    @property
    def top5(self) -> float | None:
        """Percentage with the right class among the five largest scores; None for models of five classes or fewer."""
        return _percent(self.right_in_5, self.labelled) if self.classes > MAX_TOP else None

    @property
    def reference_top1(self) -> float | None:
        """:attr:`top1` of the reference."""
        return None if self.reference_right is None else _percent(self.reference_right, self.labelled)

    @property
    def agreement(self) -> float | None:
        """Percentage of all samples that the reference gives the same class."""
        return None if self.agreeing is None else _percent(self.agreeing, self.samples)

    def to_json(self) -> dict[str, Any]:
        """Counts and percentages as JSON values."""
        counts = {name: value for name, value in asdict(self).items() if name != "per_class"}
        shares = {name: getattr(self, name) for name in ("top1", "top5", "agreement", "reference_top1")}
        classes = {
            str(label): {**asdict(one), "recall": one.recall if one.samples else None}
            for label, one in sorted(self.per_class.items())
        }
        return {**counts, **shares, **({"per_class": classes} if classes else {})}


def measure_accuracy(
    network: Network,
    data: Dataset,
    *,
    reference: Network | None = None,
    output: str | None = None,
    label_offset: int = 0,
    per_class: bool = False,
    progress: Callable[[float], None] | None = None,
) -> Accuracy:
    """Run ``network``, and ``reference`` if given, on all of ``data`` and count. Memory does not grow with the data.

    ``data`` is loaded with its classes. Of equal scores the class of the lower number is the larger one. ``output``
    names the scores where a model has several outputs; ``label_offset`` is added to each label, for a network that
    counts from a background class.

    Raises:
        InputError: a sample does not fit, the output is no row of scores, a label is out of range, or there is
            neither a label nor a reference.
    """
    if not data.labelled and reference is None:
        raise InputError("the data has no classes and there is no reference to agree with; give one of them")
    result = Accuracy()
    if reference is not None:
        result.agreeing, result.reference_right = 0, 0
    for batch in data.batches(progress):
        scores = _scores(network, batch.inputs, len(batch), output)
        result.samples += len(batch)
        result.classes = scores.shape[1]
        best = scores.argmax(axis=1)
        other = None if reference is None else _best_of(reference, network, batch.inputs, len(batch), output)
        if other is not None:
            result.agreeing = (result.agreeing or 0) + int((other == best).sum())
        for i, label in enumerate(batch.labels):
            if label is None:
                continue
            label += label_offset
            if not 0 <= label < scores.shape[1]:
                raise InputError(
                    f"{batch.names[i]} has class {label} and the model has {scores.shape[1]} classes, 0 to "
                    f"{scores.shape[1] - 1}; a label offset (--label-offset) may be needed"
                )
            result.labelled += 1
            result.right += int(best[i] == label)
            result.right_in_5 += int(rank(scores[i], label) < MAX_TOP)
            if other is not None:
                result.reference_right = (result.reference_right or 0) + int(other[i] == label)
            if per_class:
                _count(result.per_class, label, int(best[i]))
    result.unreadable = len(data.unreadable)
    return result


def rank(scores: Array, label: int) -> int:
    """How many classes come before ``label``: those with a larger score, or an equal one and a lower number."""
    return int((scores > scores[label]).sum() + (scores[:label] == scores[label]).sum())


def _count(classes: dict[int, ClassAccuracy], label: int, best: int) -> None:
    one = classes.setdefault(label, ClassAccuracy())
    one.samples += 1
    if best == label:
        one.right += 1
    else:
        classes.setdefault(best, ClassAccuracy()).wrongly += 1


def _best_of(reference: Network, network: Network, inputs: dict[str, Array], count: int, output: str | None) -> Array:
    """The class that the reference gives each sample. Its only input may have another name than the network's."""
    names = [spec.name for spec in reference.description.inputs]
    if len(names) == len(inputs) == 1:
        inputs = {names[0]: next(iter(inputs.values()))}
    if reference.batch is not None and reference.batch < count:
        raise InputError(
            f"{reference.path} takes batches of {reference.batch} and {network.path} of {count}; compile it anew"
        )
    return _scores(reference, inputs, count, output).argmax(axis=1)


def _scores(network: Network, inputs: dict[str, Array], count: int, output: str | None) -> Array:
    """(samples, classes) of one batch."""
    outputs = network(inputs)
    name = output if output in outputs else next(iter(outputs))
    if output not in outputs and len(outputs) > 1:
        raise InputError(f"{network.path} has the outputs {', '.join(outputs)}; name the scores (--output-name)")
    scores = outputs[name]
    if scores.ndim < 2 or len(scores) != count or scores[0].size != max(scores.shape[1:]):
        raise InputError(
            f"output {name!r} of {network.path} has shape {list(scores.shape)} for {count} samples; accuracy needs a "
            "classifier, with one row of scores a sample"
        )
    rows = scores.reshape(count, -1)
    if not np.isfinite(rows).all():
        raise InputError(f"output {name!r} of {network.path} holds NaN or infinity")
    return rows


def _percent(part: int, whole: int) -> float | None:
    return 100 * part / whole if whole else None
