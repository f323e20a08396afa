"""Where progress shows, and where it must not."""

from __future__ import annotations

import io
import sys

from pipeline.cli import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_bar_on_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "_DELAY", 0.0)
    with progress.progress_bar() as show:
        show("lowering", 0.4)
        show("linking", 2.0)
    assert "100 %" not in terminal.getvalue().split("lowering")[0]
    assert terminal.getvalue().endswith("\r")  # the bar is wiped: what follows is the result


def test_nothing_in_a_file(capsys):
    """A log file full of half-drawn bars is unreadable."""
    with progress.progress_bar() as show:
        show("lowering", 0.4)
    assert capsys.readouterr().err == ""


def test_each_phase_once_with_verbose(capsys):
    with progress.progress_bar(verbose=True) as show:
        for fraction in (0.1, 0.2, 0.3):
            show("lowering", fraction)
        show("linking", 0.9)
    assert [line.split()[2] for line in capsys.readouterr().err.splitlines()] == ["lowering", "linking"]
