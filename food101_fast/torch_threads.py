"""Limits torch's operators to one thread in the calling thread, while other threads keep their number.

`torch.set_num_threads` would change the number for all threads that start later, and `threadpoolctl.threadpool_limits`
takes as long as an operator on a small image.

MKL, which multiplies matrices, has its own number of threads, so it must be limited as well. Otherwise there are more
threads than cores, and GNU's OpenMP then makes all waiting threads of the process sleep, permanently.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import ThreadpoolController


def use_one_thread() -> None:
    """From now on, run torch's operators in the calling thread alone."""
    _exchange([1] * len(_openmp()), 1)


@contextmanager
def one_thread() -> Iterator[None]:
    """A context in which torch's operators run in the calling thread alone."""
    before = _exchange([1] * len(_openmp()), 1)
    try:
        yield
    finally:
        _exchange(*before)


def _exchange(openmp: Sequence[int], mkl: int) -> tuple[list[int], int]:
    """Set the calling thread's numbers, one for each OpenMP library and one for MKL; returns the previous ones."""
    torch.get_num_threads()  # the first call in a thread sets its number, so it must come before
    before = [library.get_num_threads() for library in _openmp()]
    for library, number in zip(_openmp(), openmp, strict=True):
        library.set_num_threads(number)
    return before, _mkl()(mkl)


@functools.cache
def _openmp() -> list[Any]:
    """The OpenMP libraries that are loaded."""
    return [library for library in ThreadpoolController().lib_controllers if library.user_api == "openmp"]


@functools.cache
def _mkl() -> Any:
    """`mkl_set_num_threads_local` of torch's MKL, or a function that does nothing if torch has no MKL.

    It takes the number for the calling thread, 0 for that of the process, and returns the previous one.
    """
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        return library.MKL_Set_Num_Threads_Local
    except (OSError, AttributeError):
        return lambda threads: 0
