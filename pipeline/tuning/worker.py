"""A child process that answers requests, one JSON object a line, and may crash or hang without harm.

The child runs :func:`serve`. Whatever its libraries print goes to a log, never into the answers.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pipeline

Message = dict[str, Any]


class WorkerError(Exception):
    """The worker crashed, ran out of time, or says that it could not do what was asked."""


class Worker:
    """The parent's end: starts ``python -m module`` when first asked, and again after a failure."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._process: subprocess.Popen[bytes] | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()

    def ask(self, request: Message, timeout: float) -> Message:
        """The answer to ``request``.

        Raises:
            WorkerError: there is none after ``timeout`` seconds (a child that has just been started gets a minute
                more, for its imports), the child died, or it answered with an error.
        """
        started = self._process is None
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        except OSError:
            raise self._failed("the worker is gone") from None
        line = self._line(process.stdout.fileno(), timeout + (60 if started else 0))
        answer: Message = json.loads(line)
        if "error" in answer:
            raise WorkerError(str(answer["error"]))
        return answer

    def _line(self, descriptor: int, timeout: float) -> bytes:
        deadline, parts = time.monotonic() + timeout, b""
        while not parts.endswith(b"\n"):
            remaining = deadline - time.monotonic()
            ready, _, _ = select.select([descriptor], [], [], max(0.0, remaining))
            if not ready:
                raise self._failed(f"no answer after {timeout:.0f} s")
            part = os.read(descriptor, 1 << 16)
            if not part:
                raise self._failed("the worker crashed")
            parts += part
        return parts

    def _start(self) -> subprocess.Popen[bytes]:
        search_path = [str(Path(pipeline.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, "-m", self._module],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, search_path))},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, bufsize=0,
        )  # fmt: skip
        return self._process

    def _failed(self, what: str) -> WorkerError:
        process = self._process
        self.close_process()
        code = process.returncode if process else None
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        self._log.truncate(0)
        said = f": {lines[-1]}" if lines else ""
        return WorkerError(f"{what} (exit code {code}){said}")

    def close_process(self) -> None:
        """End the child; the next request starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process = None

    def close(self) -> None:
        """End the child and its log."""
        self.close_process()
        self._log.close()


def serve(answer: Callable[[Message], Message]) -> None:
    """The child's end: answer requests until the parent closes the pipe. Errors are answers too."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            reply = answer(json.loads(line))
        except Exception as error:  # noqa: BLE001 - a candidate may fail in any way
            reply = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[-400:]}"}
        answers.write(json.dumps(reply) + "\n")
        answers.flush()
