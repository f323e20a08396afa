"""From an ONNX file to a model that the compiler can rely on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from onnx import ModelProto

from pipeline.frontend.graph import Graph
from pipeline.frontend.limits import Limits
from pipeline.frontend.normalize import normalize
from pipeline.frontend.operators import IMPORTED, REWRITTEN, check_operators
from pipeline.frontend.opset import upgrade_opset
from pipeline.frontend.reader import read_model
from pipeline.frontend.shapes import freeze_inputs, require_static


def load_model(
    path: str | os.PathLike[str],
    batch: int | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    limits: Limits | None = None,
) -> ModelProto:
    """Read, check and normalise an ONNX file; every tensor of the result has a static shape.

    ``batch`` is the first dimension of each input that leaves it open (1 if not given); ``shapes`` gives whole input
    shapes by name. Names of graph inputs and outputs stay as they are in the file.

    Raises :class:`pipeline.errors.ModelError` for a file that is damaged, hostile or not valid, and its subclass
    :class:`pipeline.errors.UnsupportedOperatorError`, which lists all operators that cannot be compiled.
    """
    limits = limits or Limits()
    return prepare_model(read_model(path, limits), batch, shapes, limits)


def prepare_model(
    model: ModelProto, batch: int | None, shapes: Mapping[str, Sequence[int]] | None, limits: Limits
) -> ModelProto:
    """The part of :func:`load_model` after reading, for a model that is in memory and has been checked."""
    check_operators(model, IMPORTED | REWRITTEN)
    frozen = ModelProto()
    frozen.CopyFrom(model)
    freeze_inputs(frozen, batch, shapes, limits)
    graph = Graph(upgrade_opset(frozen))
    normalize(graph, limits)
    require_static(graph, limits)
    return graph.to_model()
