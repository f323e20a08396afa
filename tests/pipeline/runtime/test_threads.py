"""How many threads a call really runs on, whatever was called before."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.runtime import Model, load

X = np.ones(64, "float32")


def share_of_others(model: Model, calls: int = 8) -> float:
    """CPU time that other threads spent on ``calls`` calls, over that of the calling thread."""
    model(X)
    for _ in range(100):  # workers, also those of earlier tests, spin for a while before they sleep
        before = time.process_time()
        time.sleep(0.1)
        if time.process_time() - before < 0.01:
            break
    all_before, own_before = time.process_time(), time.thread_time()
    for _ in range(calls):
        model(X)
    own = time.thread_time() - own_before
    return (time.process_time() - all_before - own) / own


def test_thread_counts_in_turn(libraries):
    """TVM's setting is one for the process: a second model with another count changed the first one's."""
    one, two = load(libraries["busy"], threads=1), load(libraries["busy"], threads=2)
    assert share_of_others(one) < 0.2
    assert share_of_others(two) > 0.5
    assert share_of_others(one) < 0.2
    assert share_of_others(two) > 0.5


def test_more_threads_than_were_started(libraries):
    """TVM never adds workers to a Python thread's pool; a later model that wants more got no more than the first."""
    program = f"""
import sys; sys.path[:0] = {[str(Path.cwd()), *sys.path]!r}
import os, numpy as np
from pipeline.runtime import load
x = np.ones(64, "float32")
one = load({str(libraries["busy"])!r}, threads=1)
reference = one(x)
count = lambda: len(os.listdir("/proc/self/task"))
before = count()
three = load({str(libraries["busy"])!r}, threads=3)
assert np.array_equal(three(x), reference)
print(count() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["3"], done.stderr  # a helper and its two workers


def test_same_bits_for_any_number_of_threads(libraries):
    expected = load(libraries["busy"], threads=1)(X)
    for count in (2, 3, 7):
        np.testing.assert_array_equal(load(libraries["busy"], threads=count)(X), expected)


def test_the_caller_keeps_its_cpus(libraries):
    """TVM ties the calling thread to CPU 0 by default; whatever that thread does next is then stuck there."""
    before = os.sched_getaffinity(0)
    load(libraries["busy"], threads=2)(X)
    assert os.sched_getaffinity(0) == before


def test_call_from_a_new_thread(libraries):
    model, results = load(libraries["busy"], threads=2), []
    thread = threading.Thread(target=lambda: results.append(share_of_others(model)))
    thread.start()
    thread.join()
    assert results[0] > 0.5


def test_call_after_fork(libraries):
    """The workers do not live on in a forked child (multiprocessing on Linux), which waited for them for ever."""
    program = f"""
import sys; sys.path[:0] = {[str(Path.cwd()), *sys.path]!r}
import faulthandler, os, numpy as np
from pipeline.runtime import load
x = np.ones(64, "float32")
model = load({str(libraries["busy"])!r}, threads=2)
reference = model(x)
child = os.fork()
if child == 0:
    faulthandler.dump_traceback_later(60, exit=True)  # says where it waits
    os._exit(0 if np.array_equal(model(x), reference) else 3)  # as multiprocessing does
print(os.waitpid(child, 0)[1], np.array_equal(model(x), reference))
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["0", "True"], done.stderr


def test_workers_without_work_sleep(libraries):
    """They went on for 0.1 s of CPU time, on a busy machine for minutes, and the end of the process waited for them."""
    program = f"""
import sys; sys.path[:0] = {[str(Path.cwd()), *sys.path]!r}
import time, numpy as np
from pipeline.runtime import load
load({str(libraries["busy"])!r}, threads=2)(np.ones(64, "float32"))
before = time.process_time()
time.sleep(1)
print(time.process_time() - before < 0.02)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["True"], done.stderr


def test_fork_in_the_middle_of_a_call(libraries):
    """The lock of a call that ended with its thread was waited for, for ever."""
    program = f"""
import sys; sys.path[:0] = {[str(Path.cwd()), *sys.path]!r}
import faulthandler, os, threading, numpy as np
from pipeline.errors import LibraryError
from pipeline.runtime import load
x = np.ones(64, "float32")
model, other = load({str(libraries["busy"])!r}, threads=1), load({str(libraries["busy"])!r}, threads=1)
reference = other(x)
began, over = threading.Event(), threading.Event()
def hold(*call):
    began.set()
    over.wait()
model.instrument(hold)
thread = threading.Thread(target=lambda: model(x))
thread.start()
began.wait()
if os.fork() == 0:
    faulthandler.dump_traceback_later(60, exit=True)
    try:
        model(x)
    except LibraryError as error:
        print(np.array_equal(other(x), reference), error, flush=True)
    os._exit(0)
os.wait()
over.set()
thread.join()
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("True a call of this model was under way"), done.stdout + done.stderr


@pytest.mark.parametrize("threads", [0, -1, 257, 1.5, True, "2"], ids=repr)
def test_nonsense_is_refused(libraries, threads):
    with pytest.raises(InputError, match="threads="):
        load(libraries["busy"], threads=threads)
