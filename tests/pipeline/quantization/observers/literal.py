"""Slow, literal versions of the published formulas: one threshold at a time, one bin at a time, no cumulative sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

EPSILON = 1e-4


def kl_divergence(counts: Sequence[int], threshold: int, levels: int) -> float:
    """TensorRT's and Caffe-Int8's divergence at one threshold, with MXNet's documented smoothing."""
    kept = [float(count) for count in counts[:threshold]]
    p = kept.copy()
    p[-1] += sum(counts[threshold:])
    q = _expand(kept, p, levels)
    try:
        p, q = _smooth(p), _smooth(q)
    except ValueError:
        return math.inf
    p_sum, q_sum = math.fsum(p), math.fsum(q)
    return math.fsum(x / p_sum * math.log((x / p_sum) / (y / q_sum)) for x, y in zip(p, q, strict=True))


def _expand(kept: list[float], p: list[float], levels: int) -> list[float]:
    """``kept`` merged to ``levels`` levels, each shared out among those of its bins where P is not empty."""
    merged = len(kept) // levels
    q = [0.0] * len(kept)
    for level in range(levels):
        stop = (level + 1) * merged if level < levels - 1 else len(kept)
        bins = range(level * merged, stop)
        filled = [i for i in bins if p[i] != 0]
        for i in filled:
            q[i] = sum(kept[j] for j in bins) / len(filled)
    return q


def _smooth(distribution: list[float]) -> list[float]:
    """Zeros become 1e-4, taken in equal parts from the others; ValueError if that leaves one not positive."""
    zeros = distribution.count(0.0)
    filled = len(distribution) - zeros
    if not filled:
        raise ValueError("all empty")
    taken = EPSILON * zeros / filled
    if any(0 < value <= taken for value in distribution):
        raise ValueError("not enough to take from")
    return [value - taken if value else EPSILON for value in distribution]


def ncnn_divergence(counts: Sequence[int], threshold: int, levels: int) -> float:
    """ncnn's divergence at one threshold, the shares of cut bins being exact fractions."""
    total = sum(counts)
    density = [count / total for count in counts]
    p = [value + EPSILON for value in density[:threshold]]
    p[-1] += sum(density[threshold:])
    q = [EPSILON] * threshold
    for level in range(levels):
        start, stop = Fraction(level * threshold, levels), Fraction((level + 1) * threshold, levels)
        overlap = {
            i: float(min(stop, Fraction(i + 1)) - max(start, Fraction(i)))
            for i in range(math.floor(start), math.ceil(stop))
        }
        mean = sum(share * density[i] for i, share in overlap.items()) / sum(overlap.values())
        for i, share in overlap.items():
            q[i] += share * mean
    return math.fsum(x * math.log(x / y) for x, y in zip(p, q, strict=True))


def paddle_divergence(counts: Sequence[int], threshold: int, levels: int) -> float:
    """Paddle's divergence at one threshold; infinite for those that it passes over."""
    if counts[threshold - 1] == 0:
        return math.inf
    kept = [float(count) for count in counts[:threshold]]
    p = kept.copy()
    p[-1] += sum(counts[threshold:])
    q = _expand(kept, p, levels)
    p_sum, q_sum = sum(p), sum(q)
    first = math.fsum(x * math.log(q_sum * x) for x in p if x)
    second = math.fsum(x * math.log(p_sum * y) for x, y in zip(p, q, strict=True) if x)
    return (first - second) / p_sum


def l2_error(counts: Sequence[int], first: int, last: int, levels: int) -> float:
    """The squared error, in bins, with each count spread over many points of its bin and rounded one by one."""
    points = 400
    step = (last - first + 1) / levels
    error = 0.0
    for i, count in enumerate(counts):
        for point in range(points if count else 0):
            x = i - first + (point + 0.5) / points
            level = min(max(math.floor(x / step), 0), levels - 1)
            error += count / points * (x - (level + 0.5) * step) ** 2
    return error


def l2_search(counts: Sequence[int], levels: int) -> tuple[int, int]:
    """PyTorch's search, step by step."""
    cumulated = [sum(counts[: i + 1]) for i in range(len(counts))]
    total = cumulated[-1]
    alpha, beta, start, end, least = 0.0, 1.0, 0, len(counts) - 1, math.inf
    while alpha < beta:
        next_alpha, next_beta = alpha + 1e-5, beta - 1e-5
        left, right = start, end
        while left < end and cumulated[left] < next_alpha * total:
            left += 1
        while right > start and cumulated[right] > next_beta * total:
            right -= 1
        next_start, next_end = start, end
        if left - start > end - right:
            next_start, alpha = left, next_alpha
        else:
            next_end, beta = right, next_beta
        if (next_start, next_end) == (start, end):
            continue
        error = l2_integral(counts, next_start, next_end, levels)
        if error > least:
            break
        least, start, end = error, next_start, next_end
    return start, end


def l2_integral(counts: Sequence[int], first: int, last: int, levels: int) -> float:
    """:func:`l2_error` in closed form, a bin and a level at a time."""
    step = (last - first + 1) / levels
    error = 0.0
    for i, count in enumerate(counts):
        for level in range(levels if count else 0):
            begin = max(i - first, level * step) if level else i - first
            stop = min(i - first + 1, (level + 1) * step) if level < levels - 1 else i - first + 1
            if begin < stop:
                centre = (level + 0.5) * step
                error += count * ((stop - centre) ** 3 - (begin - centre) ** 3) / 3
    return error
