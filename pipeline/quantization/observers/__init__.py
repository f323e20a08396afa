"""Observers: how the range of an activation is chosen from the calibration data."""

from __future__ import annotations

from pipeline.quantization.observers.base import Observer
from pipeline.quantization.observers.minmax import MinMaxObserver

OBSERVERS: dict[str, type[Observer]] = {
    "minmax": MinMaxObserver,
}
"""Every observer by the name used on the command line."""

__all__ = ["OBSERVERS", "MinMaxObserver", "Observer"]
