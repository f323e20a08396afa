"""Sizes of what a sliding window gives."""

from __future__ import annotations


def output_size(
    size: tuple[int, int],
    kernel: tuple[int, int],
    strides: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
) -> tuple[int, int]:
    """Height and width of the result for an image of ``size``; ``padding`` is (top, left, bottom, right)."""
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    rows = (size[0] + padding[0] + padding[2] - spans[0]) // strides[0] + 1
    columns = (size[1] + padding[1] + padding[3] - spans[1]) // strides[1] + 1
    return rows, columns
