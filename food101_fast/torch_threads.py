"""One thread for the operators that a thread calls, while other threads keep their own number.

`torch.set_num_threads` would change the number for all threads that come later, and `threadpoolctl.threadpool_limits`
takes as long as an operator on a small image.

MKL, which multiplies matrices, does not follow OpenMP's number and has one of its own. It must be limited as well: a
second team of threads makes more threads than cores, and GNU's OpenMP then lets all threads of the process sleep as
soon as they wait, for good.
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
    """Run torch's operators in the calling thread alone, from now on."""
    _exchange([1] * len(_openmp()), 1)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch's operators in the calling thread alone; afterwards it has its number of threads again."""
    before = _exchange([1] * len(_openmp()), 1)
    try:
        yield
    finally:
        _exchange(*before)


def _exchange(openmp: Sequence[int], mkl: int) -> tuple[list[int], int]:
    """Set the calling thread's numbers, one for each OpenMP library and one for MKL; returns those before."""
    torch.get_num_threads()  # torch sets a thread's number when it is first asked for, which would undo these
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
    """`mkl_set_num_threads_local` of the MKL in torch: it takes a number for the calling thread, 0 for the process's
    own, and returns the one before. Where there is no MKL, a function that does nothing."""
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        return library.MKL_Set_Num_Threads_Local
    except (OSError, AttributeError):
        return lambda threads: 0
