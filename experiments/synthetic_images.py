"""Seeded synthetic images: smooth random fields with the spectrum and the range of normalised photographs."""

from __future__ import annotations

import numpy as np

# Photographs normalised with ImageNet's mean and deviation stay within these limits.
LOW, HIGH = -2.1, 2.6

# Side of each octave's random grid, with amplitudes that fall as 1/frequency, as they do in natural images.
OCTAVES = (4, 8, 16, 32, 64)


def smooth_images(count: int, size: int = 224, channels: int = 3, seed: int = 0) -> np.ndarray:
    """float32 array (count, channels, size, size) within [LOW, HIGH], about zero mean and unit deviation."""
    rng = np.random.default_rng(seed)
    images = np.zeros((count, channels, size, size), np.float32)
    for grid in OCTAVES:
        luma = rng.standard_normal((count, 1, grid, grid))
        chroma = rng.standard_normal((count, channels, grid, grid))
        images += _upsample((luma + 0.4 * chroma) / grid, size)
    images /= images.std(axis=(1, 2, 3), keepdims=True)
    return np.clip(images, LOW, HIGH)


def _upsample(fields: np.ndarray, size: int) -> np.ndarray:
    """Bilinear interpolation of the last two axes to size x size, corners aligned."""
    matrix = _interpolation(fields.shape[-1], size)
    return np.einsum("yi,ncij,xj->ncyx", matrix, fields, matrix, optimize=True).astype(np.float32)


def _interpolation(old: int, new: int) -> np.ndarray:
    """(new, old) matrix of a linear interpolation."""
    position = np.linspace(0, old - 1, new)
    left = np.minimum(position.astype(int), old - 2)
    weight = position - left
    matrix = np.zeros((new, old))
    rows = np.arange(new)
    matrix[rows, left] = 1 - weight
    matrix[rows, left + 1] = weight
    return matrix
