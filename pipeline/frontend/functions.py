"""Local functions of a model: bodies that stand for an operator of the file's own."""

from __future__ import annotations

from collections.abc import Iterable

import onnx.inliner
from onnx import ModelProto, NodeProto

from pipeline.errors import ModelError
from pipeline.frontend.limits import Limits

_Key = tuple[str, str]
# Functions may call each other in a chain, and the check below follows it with one stack frame a call.
_MAX_FUNCTIONS = 100


def check_functions(model: ModelProto, limits: Limits) -> None:
    """Refuse functions that call themselves, or that have too many nodes once they are inlined.

    Thirty functions that each call the next one twice are a billion nodes: ``onnx.checker`` walks through all of them,
    so this comes before it. Raises :class:`ModelError`.
    """
    if not model.functions:
        return
    if len(model.functions) > _MAX_FUNCTIONS:
        raise ModelError(
            f"the model has {len(model.functions)} local functions; at most {_MAX_FUNCTIONS} are supported."
        )
    bodies = {(f.domain, f.name): f.node for f in model.functions}
    sizes: dict[_Key, int] = {}

    def size(nodes: Iterable[NodeProto], callers: tuple[_Key, ...]) -> int:
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            if key in callers:
                raise ModelError(f"local function {key[1]!r} calls itself, which ONNX does not allow.")
            if key in bodies and key not in sizes:
                sizes[key] = size(bodies[key], (*callers, key))
            total += sizes.get(key, 1)
        return total

    for key, body in bodies.items():
        if key not in sizes:
            sizes[key] = size(body, (key,))
    count = max(size(model.graph.node, ()), *sizes.values())
    if count > limits.max_nodes:
        raise ModelError(
            f"the model has {count} nodes once its functions are inlined, over the cap of {limits.max_nodes} "
            "(Limits.max_nodes)."
        )


def inline_functions(model: ModelProto) -> ModelProto:
    """Put the bodies of local functions in their places. Raises :class:`ModelError` where that fails."""
    if not model.functions:
        return model
    try:
        return onnx.inliner.inline_local_functions(model)
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"the local functions of the model cannot be inlined: {error}") from error
