"""Names in messages."""

from __future__ import annotations

from collections.abc import Sequence

MOST_NAMES = 8


def some(names: Sequence[str]) -> str:
    """The first of ``names``, quoted, and how many more there are; "none" for none."""
    more = len(names) - MOST_NAMES
    return (", ".join(map(repr, names[:MOST_NAMES])) or "none") + f" and {more} more" * (more > 0)
