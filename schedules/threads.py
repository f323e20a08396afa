"""From which size on a kernel is shared among threads: below, it ends sooner than a second thread wakes up."""

from __future__ import annotations

MIN_PARALLEL_MACS = 200_000
"""Multiplications of a convolution or fully connected layer."""

MIN_PARALLEL_ELEMENTS = 32_768
"""Elements of any other kernel."""
