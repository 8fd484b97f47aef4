"""The images of a batch on the CPU, shared among threads of which each runs torch's operators in itself alone.

One image of 192 px is too small for OpenMP: most operators take longer with two threads than with one. Whole images are
shared instead. Each is computed by one thread, so that a result does not depend on their number.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import ThreadpoolController


def for_each(count: int, work: Callable[[int], None], *, alone: bool = False) -> None:
    """Call `work` once for each number below `count`, in `torch.get_num_threads()` threads; returns when all are done.

    The caller is one of the threads. If the others are busy, it does all of the work, so that callers in several
    threads cannot block each other.

    Args:
        count: how many calls.
        work: called with one number; releases the interpreter, as torch's operators do, or gains nothing.
        alone: whether the caller does all of it, for work that is too little to be shared.

    Raises:
        Exception: what `work` raised first; numbers that were not yet begun are then left out.
    """
    helpers = 0 if alone or torch.is_autocast_enabled("cpu") else min(torch.get_num_threads(), count) - 1
    numbers = _Numbers(count)
    inference = torch.is_inference_mode_enabled()  # a state of the thread, as autocast is

    def run() -> None:
        try:
            with torch.inference_mode(inference):
                for number in numbers:
                    work(number)
        except BaseException:
            numbers.stop()
            raise

    with _one_openmp_thread():
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
    """The numbers below `count`, each handed out once, to any thread."""

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
        """Hand out no more."""
        with self._lock:
            self._count = 0


def _submitted(run: Callable[[], None], times: int) -> Iterator[Future[None]]:
    try:
        for _ in range(times):
            yield _pool(os.getpid()).submit(run)
    except RuntimeError:  # the interpreter is ending, and starts no threads; the caller does without
        return


@functools.cache
def _pool(process: int) -> ThreadPoolExecutor:
    """The helpers of this process; a forked process has none of its parent's threads, and makes its own."""
    return ThreadPoolExecutor(os.cpu_count() or 1, "transforms", _use_one_openmp_thread)


@functools.cache
def _openmp() -> list[Any]:
    """The OpenMP libraries that are loaded."""
    return [library for library in ThreadpoolController().lib_controllers if library.user_api == "openmp"]


@functools.cache
def _mkl() -> Any:
    """`mkl_set_num_threads_local` of the MKL in torch: it takes a number for the calling thread, 0 for the process's
    own, and returns the one before. Where there is no MKL, a function that does nothing."""
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        return library.MKL_Set_Num_Threads_Local
    except (OSError, AttributeError):
        return lambda threads: 0


def _use_one_openmp_thread() -> None:
    torch.get_num_threads()  # torch sets a thread's number when it is first asked for, which would undo the limit
    for library in _openmp():
        library.set_num_threads(1)
    # MKL, which multiplies matrices, does not look at OpenMP's number. A second team of threads would also make the
    # first one slow for good: with more threads than cores GNU's OpenMP lets all of them sleep while they wait.
    _mkl()(1)


@contextmanager
def _one_openmp_thread() -> Iterator[None]:
    """One OpenMP thread for the calling thread. `torch.set_num_threads` would change the whole process, and
    `threadpoolctl.threadpool_limits` takes as long as a small image."""
    torch.get_num_threads()  # as above
    before = [(library, library.get_num_threads()) for library in _openmp()]
    mkl = _mkl()(1)
    _use_one_openmp_thread()
    try:
        yield
    finally:
        for library, number in before:
            library.set_num_threads(number)
        _mkl()(mkl)
