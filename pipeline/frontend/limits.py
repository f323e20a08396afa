"""Caps on what a model file may ask for, so that a hostile file ends in an error and not in a dead machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Upper bounds checked while a model is read; the defaults are far above any network meant for INT8 inference."""

    max_file_bytes: int = 2**31 - 1
    """Model file plus its external data: protobuf itself ends at 2 GiB."""
    max_nodes: int = 50_000
    """Nodes after local functions are inlined."""
    max_tensor_elements: int = 2**28
    """Elements of one tensor: weight, input or intermediate result."""
    max_folded_elements: int = 2**26
    """Elements of all constants together that are computed while loading."""
    max_rank: int = 8
    """Dimensions of one tensor."""
