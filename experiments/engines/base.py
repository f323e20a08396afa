"""What every engine of the comparison can be asked."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Runner = Callable[[np.ndarray], Any]
"""Runs one batch from its float32 NCHW array, and returns when the result is there."""


class Engine(ABC):
    """One engine at one precision."""

    name: str
    precision: str
    """"int8" or "fp32"."""
    kind: str
    """Which of the zoo's files it takes: "fp32" or "qdq"."""
    packages: tuple[str, ...]
    """What ``import`` needs; the first one's absence is told."""
    distributions: tuple[str, ...]
    """The installed distributions whose versions go into the results."""
    variants: tuple[str | None, ...] = (None,)
    """Its own ways to run a network; the fastest one counts."""
    needs_avx512: str | None = None
    """Why it cannot be held to AVX2 on a CPU with AVX-512; None where it can be."""

    @classmethod
    def unavailable(cls, isa: str | None = None) -> str | None:
        """Why this engine cannot run here, held to the ``isa`` of isa_limit.py; None where it can."""
        for package in cls.packages:
            found = None
            with contextlib.suppress(ImportError):
                found = importlib.util.find_spec(package)
            if not found:
                return f"the Python package {package!r} is not installed (pip install '.[peers]')"
        return cls.needs_avx512 if isa == "avx2" else None

    @classmethod
    def import_packages(cls) -> None:
        """What a program that uses the engine imports; the ground above which its memory is counted."""
        for package in cls.packages:
            importlib.import_module(package)

    @classmethod
    def prepare(cls, model: Path, output: Path, batch: int, target: str, threads: Sequence[int]) -> Path:  # noqa: ARG003
        """What ``load`` takes: the ONNX file ``model``, unless the engine makes something of it in folder ``output``.

        ``target``: what Octet compiles for. ``threads``: the numbers of threads that it will be loaded with.
        """
        return model

    def logits(self, result: Any) -> np.ndarray:
        """Of what a Runner returned: the network's only output, (batch, classes); a copy."""
        return np.array(result[0])

    @abstractmethod
    def load(self, artefact: Path, threads: int, variant: str | None = None) -> Runner:
        """The network, ready to run on so many threads; ``variant`` is one of ``variants``."""
