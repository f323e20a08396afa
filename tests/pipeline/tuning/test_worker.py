from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.tuning.worker import Worker, WorkerError


@pytest.fixture
def worker() -> Iterator[Worker]:
    child = Worker("tests.pipeline.tuning.child")
    yield child
    child.close()


def test_what_the_child_prints_is_no_answer(worker: Worker) -> None:
    """LLVM and TVM print to stdout."""
    assert worker.ask({"do": "answer"}, 60)["pid"] > 0


def test_an_error_is_told_and_the_child_lives_on(worker: Worker) -> None:
    pid = worker.ask({"do": "answer"}, 60)["pid"]
    with pytest.raises(WorkerError, match="ValueError: no such tile"):
        worker.ask({"do": "raise"}, 60)
    assert worker.ask({"do": "answer"}, 60)["pid"] == pid


def test_a_crash_is_told_and_the_next_request_has_a_new_child(worker: Worker) -> None:
    pid = worker.ask({"do": "answer"}, 60)["pid"]
    with pytest.raises(WorkerError, match="crashed"):
        worker.ask({"do": "crash"}, 60)
    assert worker.ask({"do": "answer"}, 60)["pid"] != pid


def test_a_child_that_hangs_is_ended(worker: Worker) -> None:
    worker.ask({"do": "answer"}, 60)
    with pytest.raises(WorkerError, match="no answer"):
        worker.ask({"do": "sleep"}, 0.2)
    assert worker.ask({"do": "answer"}, 60)["pid"] > 0
