"""Random quantised graphs against onnxruntime, unit by unit, and against themselves, on other targets and fused.

The results of all units are outputs of a first library. Each of them must be within one step of what onnxruntime makes
of the very codes that the unit read, so that no error has to be followed through a graph. A second library, for another
target, has the last result as its only output, so that everything that can be fused is: it must give the same bits,
unless a part of the graph stays float, where LLVM contracts products and sums on the targets that have such an
instruction.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline
from pipeline.runtime import Manifest, load
from tests.end_to_end.random_graphs import Graph, grow, input_graph
from tests.end_to_end.random_units import KINDS
from tests.octet_runner import HOST_TARGETS, Array, assert_same_bits

GRAPHS = 20 if os.environ.get("HYPOTHESIS_PROFILE", "fixed") == "fixed" else settings().max_examples

SHAPES = [(1, 3, 9, 7), (2, 8, 5, 5), (1, 16, 4, 6), (3, 17, 3, 1), (1, 1, 8, 8), (2, 5, 1, 1), (2, 33), (1, 6, 10)]
OFTEN = ["conv", "conv", "conv", "depthwise", "grouped", "add", "add", "concat", "max-pool"]
"""Kinds that networks are made of, drawn more often than the others."""

units = st.lists(st.tuples(st.sampled_from(OFTEN + sorted(KINDS)), st.integers(0, 2**32 - 1)), min_size=2, max_size=7)


def _grown(seed: int, shape: tuple[int, ...], kinds: list[tuple[str, int]]) -> Graph:
    graph = input_graph(seed, shape)
    for kind, unit_seed in kinds:
        if graph.codes[-1].size < 20_000:
            grow(graph, kind, unit_seed)
    return graph


def _results(graph: Graph, target: str, *, every_result: bool, threads: int) -> tuple[list[Array], Manifest]:
    model = graph.model(every_result=every_result).build()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        compiled = load(pipeline.compile(path, target, output=Path(folder) / "model.so"), threads=threads)
        result = compiled(graph.codes[0])
    return (list(result.values()) if isinstance(result, dict) else [result]), compiled.manifest


def _assert_one_step(graph: Graph, results: list[Array]) -> None:
    codes = [graph.codes[0], *results]
    for unit, actual in zip(graph.units, results, strict=True):
        expected = unit.meaning([graph.quantizations[i] for i in unit.operands], [codes[i] for i in unit.operands])
        assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape), unit.kind
        apart = np.abs(actual.astype(np.int64) - expected.astype(np.int64))
        assert apart.max(initial=0) <= 1, f"{unit.kind} is {apart.max()} steps off"


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_one_unit(kind: str) -> None:
    """Each kind by itself, where its output is within one step of onnxruntime's."""
    shape = (2, 33) if kind == "gemm" else (2, 8, 5, 5)
    graph = _grown(len(kind), shape, [(kind, sum(map(ord, kind)))])
    assert graph.units[0].kind != "rescale" or kind == "rescale"
    results, _ = _results(graph, "native", every_result=True, threads=1)
    _assert_one_step(graph, results)


@settings(max_examples=GRAPHS)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from(SHAPES),
    kinds=units,
    targets=st.permutations(HOST_TARGETS),
)
def test_graph(seed: int, shape: tuple[int, ...], kinds: list[tuple[str, int]], targets: list[str]) -> None:
    """Every unit within one step of its meaning; fused, on another target and with two threads the same bits."""
    graph = _grown(seed, shape, kinds)
    results, manifest = _results(graph, targets[0], every_result=True, threads=1)
    _assert_one_step(graph, results)
    (last,), _ = _results(graph, targets[-1], every_result=False, threads=2)
    if not manifest.float_operators:
        assert_same_bits(last, results[-1], f"fused for {targets[-1]} and unit by unit for {targets[0]}")
