"""The images of a batch on the CPU, distributed over threads; each thread runs torch's operators single-threaded.

One image of 192 px is too small for OpenMP: most operators take longer with two threads than with one. So whole images
are distributed. One thread computes an image, so that results do not depend on the number of threads.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from food101_fast.processes import usable_cores
from food101_fast.torch_threads import one_thread, use_one_thread


def for_each(count: int, work: Callable[[int], None], *, alone: bool = False) -> None:
    """Call `work` once for each number below `count`, in `torch.get_num_threads()` threads; returns when all are done.

    The caller is one of the threads. If the others are busy, it does all of the work, so that callers in several
    threads cannot block each other.

    Args:
        count: number of calls.
        work: called with one number; should release the interpreter lock, as torch's operators do.
        alone: whether the caller does all calls, because they are too short for several threads.

    Raises:
        Exception: what `work` raised first; numbers that were not started by then are skipped.
    """
    helpers = 0 if alone or torch.is_autocast_enabled("cpu") else min(torch.get_num_threads(), count) - 1
    numbers = _Numbers(count)
    inference = torch.is_inference_mode_enabled()  # each thread has its own, as for autocast

    def run() -> None:
        try:
            with torch.inference_mode(inference):
                for number in numbers:
                    work(number)
        except BaseException:
            numbers.stop()
            raise

    with one_thread():
        futures = list(_submitted(run, helpers))
        try:
            run()
        finally:
            numbers.stop()  # after Ctrl-C, too, nothing may be written once this has returned
            running = [future for future in futures if not future.cancel()]
            errors = [error for future in running if (error := future.exception()) is not None]
        if errors:
            raise errors[0]


class _Numbers:
    """Yields each number below `count` once, to any thread."""

    def __init__(self, count: int) -> None:
        self._next, self._count = 0, count
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[int]:
        while True:
            with self._lock:
                number = self._next
                if number >= self._count:
                    return
                self._next += 1
            yield number

    def stop(self) -> None:
        """Yield no more numbers."""
        with self._lock:
            self._count = 0


def _submitted(run: Callable[[], None], times: int) -> Iterator[Future[None]]:
    try:
        for _ in range(times):
            yield _pool(os.getpid()).submit(run)
    except RuntimeError:  # the interpreter is shutting down and starts no threads; the caller works alone
        return


@functools.cache
def _pool(process: int) -> ThreadPoolExecutor:
    """The helper threads of this process; a forked process does not have its parent's threads and starts its own."""
    return ThreadPoolExecutor(usable_cores(), "transforms", use_one_thread)
