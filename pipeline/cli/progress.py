"""Progress on stderr: a bar on a terminal, lines with --verbose elsewhere, otherwise nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[str, float], None]
"""Takes what is being done, and how much of the whole is done (0 to 1)."""

_DELAY = 1.0  # seconds before the bar shows: what is done sooner needs none
_FORMAT = "{desc:<32.32} {percentage:3.0f} % |{bar:30}| {elapsed}"


@contextmanager
def progress_bar(*, verbose: bool = False) -> Iterator[Progress]:
    """Shows progress while the block runs."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=1.0, delay=_DELAY, leave=False, bar_format=_FORMAT) as bar:

            def draw(phase: str, fraction: float) -> None:
                bar.set_description_str(phase, refresh=False)
                bar.update(max(0.0, min(1.0, fraction) - bar.n))

            yield draw
    else:
        start, shown = time.monotonic(), [""]

        def write(phase: str, _fraction: float) -> None:
            if verbose and phase != shown[-1]:
                print(f"{time.monotonic() - start:7.1f} s  {phase}", file=sys.stderr, flush=True)
                shown.append(phase)

        yield write
