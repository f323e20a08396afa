"""How many threads a call runs on.

TVM's workers belong to the Python thread that calls, are started at its first call and can never become more; all that
can change later is how many of them take part. So the first call from a thread starts as many as the models loaded by
then want (workers that take no part sleep). A call for which those are too few, or which died in a ``fork``, runs on a
helper thread, whose workers are new; handing it over costs some 20 microseconds.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import tvm_ffi

from pipeline.errors import InputError
from pipeline.runtime.cpu import physical_cores, usable_cpus

MAX_THREADS = 256

_Result = TypeVar("_Result")
_SHARE_ALL_CPUS = -3  # TVM's affinity mode in which no worker is tied to one CPU; the default ties the caller to CPU 0
_CPUS = usable_cpus()  # now, before any TVM pool can narrow the affinity of the main thread


class _Caller(threading.local):
    """What the workers of the current Python thread are set to."""

    threads = 0
    workers = 0
    generation = -1


class _Workers:
    """What all Python threads of this process share."""

    def __init__(self) -> None:
        self.most_wanted = 1
        self.generation = 0
        """How many forks lie between the first process and this one."""
        self.helpers: dict[int, ThreadPoolExecutor] = {}
        self.lock = threading.Lock()
        self.caller = _Caller()

    def forked(self) -> None:
        """In the child, where only the forking thread lives on: forget every worker and helper of the parent."""
        self.generation += 1
        self.helpers = {}
        self.lock = threading.Lock()

    def prepare(self, threads: int) -> bool:
        """Set the workers of the current thread; False if it has too few or lost them in a fork."""
        caller = self.caller
        if caller.generation != self.generation:
            if caller.workers:
                return False
            caller.generation = self.generation
        if caller.threads != threads:
            if 0 < caller.workers < threads:
                return False
            workers = caller.workers or max(self.most_wanted, threads)
            cpus = [str(_CPUS[i % len(_CPUS)]) for i in range(workers)]
            tvm_ffi.get_global_func("runtime.config_threadpool")(_SHARE_ALL_CPUS, threads, cpus)
            caller.workers = workers
            caller.threads = tvm_ffi.get_global_func("runtime.NumThreads")()
            if caller.threads < threads:  # something else used TVM in this thread before us, and started fewer
                caller.workers = caller.threads
                return False
        return True

    def helper(self, threads: int) -> ThreadPoolExecutor:
        """The thread that runs what other threads cannot, with ``threads`` workers."""
        with self.lock:
            if threads not in self.helpers:
                self.helpers[threads] = ThreadPoolExecutor(1, thread_name_prefix=f"octet-{threads}")
            return self.helpers[threads]


_workers = _Workers()
os.register_at_fork(after_in_child=_workers.forked)


def reserve(threads: int | None) -> int:
    """The number of threads for a model: ``threads``, or this machine's physical cores. Call it at load time.

    Raises:
        InputError: the number makes no sense.
    """
    if threads is None:
        threads = physical_cores()
    if not isinstance(threads, int) or isinstance(threads, bool) or not 1 <= threads <= MAX_THREADS:
        raise InputError(f"threads={threads!r}: give a whole number from 1 to {MAX_THREADS}, or none for all cores")
    with _workers.lock:
        _workers.most_wanted = max(_workers.most_wanted, threads)
    return threads


def run(threads: int, call: Callable[[], _Result]) -> _Result:
    """The result of ``call()``, whose parallel loops run on ``threads`` threads, this one included."""
    if _workers.prepare(threads):
        return call()
    return _workers.helper(threads).submit(_run_on_helper, threads, call).result()


def _run_on_helper(threads: int, call: Callable[[], _Result]) -> _Result:
    _workers.prepare(threads)
    return call()
