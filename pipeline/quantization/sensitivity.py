"""Which layers cost accuracy: each quantised alone, the rest in float."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.quantization.feeds import Data
from pipeline.quantization.fidelity import Fidelity
from pipeline.quantization.options import make_options
from pipeline.quantization.quantizer import Progress, Quantizer
from pipeline.quantization.table_overrides import with_table
from pipeline.quantization.tables import CalibrationTable
from pipeline.quantization.writer import save

Metric = Callable[[Path], float]
"""How good the model in an ONNX file is; more is better. In whatever unit ``max_drop`` is meant: percent, mostly."""


@dataclass(frozen=True)
class LayerCost:
    """What one layer costs when it alone is quantised: its input, weights and bias, and its output if that is one of
    the model."""

    name: str
    op_type: str
    sqnr: float
    """Of the outputs of the model on the calibration data, in dB."""
    drop: float | None = None
    """Of the metric, against the float model; None where there is no metric."""


def sensitivity(
    model: str | os.PathLike[str],
    data: Data,
    *,
    metric: Metric | None = None,
    table: CalibrationTable | str | os.PathLike[str] | None = None,
    table_scales: str = "input",
    samples: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> list[LayerCost]:
    """Quantise each layer alone and compare with the float model, worst layer first.

    Args:
        model, data, table, table_scales, samples, progress, options: as for :func:`pipeline.quantize`.
        metric: asked once for the float model and once for each layer; without one only the SQNR is compared.

    Raises:
        ModelError, InputError: as :func:`pipeline.quantize` does.
    """
    made = with_table(make_options(options.pop("overrides", None), **options), table, model, table_scales)
    with closing(Quantizer(model, data, made, samples, _part(progress, 0.0, 0.3))) as quantizer, Trial(metric) as trial:
        reference = trial.score_file(model) if metric is not None else None
        return rank(quantizer, trial, reference, _part(progress, 0.3, 1.0))


class Trial:
    """Models written to a temporary folder, for a metric to look at. A context manager."""

    def __init__(self, metric: Metric | None) -> None:
        self._metric = metric
        self._folder = tempfile.TemporaryDirectory(prefix="octet-trial-")

    def __enter__(self) -> Trial:  # noqa: PYI034
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def score(self, quantizer: Quantizer, keep_float: Collection[str] = (), only: str | None = None) -> float | None:
        """The metric of the quantised model with these layers in float; None without a metric."""
        if self._metric is None:
            return None
        path = Path(self._folder.name) / "trial.onnx"
        save(quantizer.make(keep_float, only), path)
        return self.score_file(path)

    def score_file(self, path: str | os.PathLike[str]) -> float:
        """The metric of a file."""
        assert self._metric is not None
        return float(self._metric(Path(path)))


def rank(quantizer: Quantizer, trial: Trial, reference: float | None, progress: Progress) -> list[LayerCost]:
    """The cost of each layer, the largest drop first, and where drops are equal the lowest SQNR first.

    ``reference``: the metric of the float model, None without a metric.
    """
    assert quantizer.feeds is not None
    fidelity = Fidelity(quantizer.reference(), quantizer.feeds)
    costs = []
    for index, layer in enumerate(quantizer.placement.layers):
        progress(f"layer {layer.name}", index / len(quantizer.placement.layers))
        sqnr = fidelity.sqnr(quantizer.make(only=layer.name))
        value = trial.score(quantizer, only=layer.name)
        drop = None if value is None or reference is None else reference - value
        costs.append(LayerCost(layer.name, layer.node.op_type, sqnr, drop))
    return sorted(costs, key=lambda cost: (-(cost.drop or 0.0), cost.sqnr))


def _part(progress: Progress | None, start: float, end: float) -> Progress:
    """``progress`` for a part of the work."""
    if progress is None:
        return lambda _phase, _share: None
    return lambda phase, share: progress(phase, start + (end - start) * share)
