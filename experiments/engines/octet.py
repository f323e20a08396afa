"""Octet: the zoo's QDQ file, compiled ahead for one target."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.engines.base import Engine, Runner


class Octet(Engine):
    name = "octet"
    precision = "int8"
    kind = "qdq"
    packages = ("pipeline.runtime",)
    distributions = ("octet", "apache-tvm")

    @classmethod
    def import_packages(cls) -> None:
        """Without PyTorch, which tvm_ffi imports where it is installed, for tensors that nobody has here."""
        sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
        super().import_packages()

    @classmethod
    def prepare(cls, model: Path, output: Path, batch: int, target: str, threads: Sequence[int]) -> Path:  # noqa: ARG003
        import pipeline

        output.mkdir(parents=True, exist_ok=True)
        return pipeline.compile(model, target=target, output=output / f"{model.stem}-b{batch}-{target}.so", batch=batch)

    def logits(self, result: Any) -> np.ndarray:
        return np.array(result)

    def load(self, artefact: Path, threads: int, variant: str | None = None) -> Runner:  # noqa: ARG002
        self.import_packages()
        from pipeline.runtime import load

        return load(artefact, threads=threads)
