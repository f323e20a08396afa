"""Which layer broke it: a compiled model beside the float model that it was made from."""

from __future__ import annotations

from pipeline.comparison.compare import Comparison, TensorReport, compare, find_source

__all__ = ["Comparison", "TensorReport", "compare", "find_source"]
