"""A worker that misbehaves as it is asked to."""

from __future__ import annotations

import os
import sys
import time

from pipeline.tuning.worker import Message, serve


def answer(request: Message) -> Message:
    if request["do"] == "crash":
        os.abort()
    if request["do"] == "sleep":
        time.sleep(600)
    if request["do"] == "raise":
        raise ValueError("no such tile")
    sys.stdout.write("noise from Python\n")
    os.write(1, b"noise from C\n")
    return {"pid": os.getpid()}


if __name__ == "__main__":
    serve(answer)
