"""Running shard tasks: a pool of worker processes that share nothing but a counter for the progress bar."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from multiprocessing.sharedctypes import Synchronized

from food101_fast.errors import UserError
from food101_fast.prepare.write import ShardResult, ShardTask, ShardWriter

_REFRESH_SECONDS = 0.2

_writer: ShardWriter
_counter: Synchronized[int]


def _start_worker(writer: ShardWriter, counter: Synchronized[int]) -> None:
    global _writer, _counter
    _writer, _counter = writer, counter


def _count_one() -> None:
    with _counter.get_lock():
        _counter.value += 1


def _run(task: ShardTask) -> ShardResult:
    return _writer(task, _count_one)


def _process_context() -> BaseContext:
    """Processes that inherit no threads or locks of the caller, started from one that has done the imports."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", __name__])
    return context


@contextmanager
def _ctrl_c_for_the_parent_alone() -> Iterator[None]:
    """Processes started in here never see Ctrl-C, not even while they import; the parent, which does, ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def write_shards(
    writer: ShardWriter, tasks: Sequence[ShardTask], *, workers: int, progress: Callable[[int], None]
) -> Iterator[ShardResult]:
    """Run `writer` on every task in `workers` processes; results come as they are ready, in any order.

    Args:
        writer: run once per task, in one of the processes.
        tasks: the shards to write, started in this order.
        workers: number of processes.
        progress: told the number of images done so far, a few times a second.

    Raises:
        UserError: a source file can't be read, or a worker process died. The others finish their shard first.
    """
    context = _process_context()
    counter = context.Value("q", 0)
    with ProcessPoolExecutor(workers, context, _start_worker, (writer, counter)) as pool:
        try:
            with _ctrl_c_for_the_parent_alone():
                pending = {pool.submit(_run, task) for task in tasks}
            while pending:
                done, pending = wait(pending, timeout=_REFRESH_SECONDS, return_when=FIRST_COMPLETED)
                progress(counter.value)
                for future in done:
                    yield future.result()
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process died, most likely killed for want of memory; use fewer --workers and run again"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
