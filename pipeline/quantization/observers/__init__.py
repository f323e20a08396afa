"""Observers: how the range of an activation is chosen from the calibration data."""

from __future__ import annotations

from pipeline.quantization.observers.aciq import AciqLaplaceObserver, AciqObserver
from pipeline.quantization.observers.base import Observer
from pipeline.quantization.observers.histogram_l2 import HistogramL2Observer
from pipeline.quantization.observers.kl import KLObserver
from pipeline.quantization.observers.kl_ncnn import NcnnKLObserver
from pipeline.quantization.observers.kl_paddle import PaddleKLObserver
from pipeline.quantization.observers.minmax import MinMaxObserver
from pipeline.quantization.observers.moving_average import MovingAverageObserver
from pipeline.quantization.observers.mse import MSEObserver
from pipeline.quantization.observers.percentile import PercentileObserver

OBSERVERS: dict[str, type[Observer]] = {
    "minmax": MinMaxObserver,
    "moving-average": MovingAverageObserver,
    "percentile": PercentileObserver,
    "kl": KLObserver,
    "kl-ncnn": NcnnKLObserver,
    "kl-paddle": PaddleKLObserver,
    "histogram-l2": HistogramL2Observer,
    "mse": MSEObserver,
    "aciq": AciqObserver,
    "aciq-laplace": AciqLaplaceObserver,
}
"""Every observer by the name used on the command line."""

__all__ = [
    "OBSERVERS",
    "AciqLaplaceObserver",
    "AciqObserver",
    "HistogramL2Observer",
    "KLObserver",
    "MSEObserver",
    "MinMaxObserver",
    "MovingAverageObserver",
    "NcnnKLObserver",
    "Observer",
    "PaddleKLObserver",
    "PercentileObserver",
]
