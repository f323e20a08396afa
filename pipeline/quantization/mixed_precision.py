"""Mixed precision: the fewest layers kept in float with which the model loses no more than it may."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.quantization.feeds import Data
from pipeline.quantization.options import make_options
from pipeline.quantization.quantizer import Progress, Quantizer, Say
from pipeline.quantization.sensitivity import LayerCost, Metric, Trial, rank
from pipeline.quantization.writer import check_model_output, save

_EQUAL = 1e-9
"""Drops that differ by less are equal: percentages are sums of rounded quotients."""


@dataclass(frozen=True)
class MixedPrecision:
    """What :func:`mixed_precision` found."""

    path: Path
    kept_float: list[str]
    """Names of the layers, in the order of the ranking; empty where the fully quantised model is good enough."""
    float_metric: float
    quantized_metric: float
    """With all layers quantised."""
    metric: float
    """Of the model that was written."""
    ranking: list[LayerCost]
    """Worst first; empty where it was not asked for and no layer had to be kept."""


def mixed_precision(
    model: str | os.PathLike[str],
    data: Data,
    *,
    output: str | os.PathLike[str],
    metric: Metric,
    max_drop: float,
    samples: int | None = None,
    metadata: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    say: Say | None = None,
    sensitivity: bool = False,
    **options: Any,
) -> MixedPrecision:
    """Quantise ``model`` to ``output``, with as few layers in float as keep the metric within ``max_drop``.

    1. If the fully quantised model is good enough, that is it.
    2. The layers are ranked by what each costs alone (:func:`pipeline.quantization.sensitivity.sensitivity`).
    3. Bisection finds the fewest of the worst that must stay float.
    4. Each of these is tried in 8 bits once more, the cheapest first, so that none of them is there in vain.

    Args:
        model, data, output, samples, metadata, progress, say, options: as for :func:`pipeline.quantize`.
        metric: asked for two models, and where layers are ranked for about as many as there are layers.
        max_drop: how much less than the float model's the metric may be.
        sensitivity: rank the layers also where the fully quantised model is good enough.

    Raises:
        InputError: the budget cannot be met even with all layers in float; and as :func:`pipeline.quantize` does.
        ModelError: as :func:`pipeline.quantize` does.
    """
    if not max_drop >= 0:
        raise InputError(f"max_drop {max_drop}: give 0 or more.")
    overrides = options.pop("overrides", None)
    made = make_options(overrides, **options)
    path = check_model_output(output, model, overrides)
    tell = progress or (lambda _phase, _share: None)
    tell("float model", 0.0)
    best = float(metric(Path(model)))  # first of all: what the metric refuses should not cost a calibration
    with (
        closing(Quantizer(model, data, made, samples, lambda p, s: tell(p, 0.2 * s), say)) as quantizer,
        Trial(metric) as trial,
    ):
        search = _Search(quantizer, trial, best - max_drop - _EQUAL)
        quantized = search.metric([])
        ranking: list[LayerCost] = []
        kept: list[str] = []
        suffices = search.suffices([])
        if sensitivity or not suffices:
            ranking = rank(quantizer, trial, best, lambda p, s: tell(p, 0.2 + 0.5 * s))
        if not suffices:
            tell("search", 0.7)
            kept = search.fewest([cost.name for cost in ranking])
        result = quantizer.make(kept, metadata=metadata)
        quantizer.check(result)
        save(result, path)
        tell("done", 1.0)
        return MixedPrecision(path, kept, best, quantized, search.metric(kept), ranking)


class _Search:
    def __init__(self, quantizer: Quantizer, trial: Trial, least: float) -> None:
        self._quantizer = quantizer
        self._trial = trial
        self._least = least
        self._known: dict[frozenset[str], float] = {}

    def metric(self, kept: Sequence[str]) -> float:
        """With these layers in float."""
        key = frozenset(kept)
        if key not in self._known:
            value = self._trial.score(self._quantizer, keep_float=kept)
            assert value is not None
            self._known[key] = value
        return self._known[key]

    def suffices(self, kept: Sequence[str]) -> bool:
        return self.metric(kept) >= self._least

    def fewest(self, ranking: Sequence[str]) -> list[str]:
        """Steps 3 and 4; the empty set does not suffice."""
        if not self.suffices(ranking):
            raise InputError(
                f"the metric is {self.metric(ranking):g} with all {len(ranking)} layers in float, which is below the "
                f"{self._least:g} asked for: additions and averages cost that much. Allow a larger max_drop."
            )
        too_few, enough = 0, len(ranking)
        while enough - too_few > 1:
            middle = (too_few + enough) // 2
            if self.suffices(ranking[:middle]):
                enough = middle
            else:
                too_few = middle
        kept = list(ranking[:enough])
        for name in reversed(ranking[:enough]):
            fewer = [other for other in kept if other != name]
            if self.suffices(fewer):
                kept = fewer
        return kept
