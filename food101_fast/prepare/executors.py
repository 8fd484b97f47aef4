"""Who does the work: a pool of processes on this machine, a Ray cluster, or this process alone.

An executor runs both steps of a job on each task: `compute`, which is bound by the processor, and `store`, which waits
for a disk or a network. Tasks and results are the same for every executor.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence, Sized
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for
from multiprocessing.context import BaseContext
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import BoundedSemaphore
from typing import Any, Protocol, TypeVar

from food101_fast.errors import UserError
from food101_fast.processes import main_module_hidden

_REFRESH_SECONDS = 0.2

Task = TypeVar("Task", bound=Sized)
TaskIn = TypeVar("TaskIn", bound=Sized, contravariant=True)
Made = TypeVar("Made")
Result = TypeVar("Result")
ResultOut = TypeVar("ResultOut", covariant=True)


class Job(Protocol[TaskIn, Made, ResultOut]):
    """The work on a task. Picklable."""

    def compute(self, task: TaskIn, count: Callable[[int], None]) -> Made:
        """The step that needs a processor; calls `count` with the number of images done since the last call."""
        ...

    def store(self, made: Made) -> ResultOut:
        """The step that waits for a disk or a network."""
        ...


class Executor(Protocol):
    """Runs a job on tasks."""

    def run(
        self, job: Job[Task, Made, Result], tasks: Sequence[Task], progress: Callable[[int], None]
    ) -> Iterator[Result]:
        """Yield results when they are ready, in any order.

        Args:
            job: the work on each task.
            tasks: started in this order.
            progress: called with the number of images done so far, a few times a second.

        Raises:
            UserError: raised by `job`, or a worker died. The other workers finish their task first.
        """
        ...


class InProcess:
    """This process alone, one task after the other."""

    def run(
        self, job: Job[Task, Made, Result], tasks: Sequence[Task], progress: Callable[[int], None]
    ) -> Iterator[Result]:
        """Compute and store each task in turn; see `Executor.run`."""
        done = 0

        def count(images: int) -> None:
            nonlocal done
            done += images
            progress(done)

        for task in tasks:
            yield job.store(job.compute(task, count))


@dataclass(frozen=True)
class _Worker:
    """The state of a worker process."""

    job: Job[Any, Any, Any]
    slots: BoundedSemaphore
    counter: Synchronized[int]

    def count(self, images: int) -> None:
        with self.counter.get_lock():
            self.counter.value += images

    def run(self, task: Sized) -> Any:
        with self.slots:
            made = self.job.compute(task, self.count)
        return self.job.store(made)


_worker: _Worker


def _start_worker(worker: _Worker) -> None:
    global _worker
    _worker = worker
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End when the parent is killed: it can't stop its workers, which would wait for its next task forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait_for([parent.sentinel])
    os._exit(1)


def _run(task: Sized) -> Any:
    return _worker.run(task)


@dataclass(frozen=True)
class LocalPool:
    """`workers` processes that compute, and one more so that a shard can be stored meanwhile."""

    workers: int

    def run(
        self, job: Job[Task, Made, Result], tasks: Sequence[Task], progress: Callable[[int], None]
    ) -> Iterator[Result]:
        """Run the tasks in worker processes; see `Executor.run`."""
        if not tasks:
            return
        context = _process_context()
        counter = context.Value("q", 0)
        worker = _Worker(job, context.BoundedSemaphore(self.workers), counter)
        processes = min(self.workers + 1, len(tasks))
        with ProcessPoolExecutor(processes, context, _start_worker, (worker,)) as pool:
            try:
                with _ctrl_c_in_parent_only(), main_module_hidden():
                    pending = {pool.submit(_run, task) for task in tasks}
                while pending:
                    done, pending = wait(pending, timeout=_REFRESH_SECONDS, return_when=FIRST_COMPLETED)
                    progress(counter.value)
                    for future in done:
                        yield future.result()
            except BrokenProcessPool as error:
                raise UserError(
                    "a worker process died, most likely out of memory; run again with fewer --workers: finished shards "
                    "are kept"
                ) from error
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


def _process_context() -> BaseContext:
    """Processes that inherit no threads or locks of the caller, forked from one that has done the imports."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["food101_fast.prepare.write", "food101_fast.prepare.duplicates"])
    return context


@contextmanager
def _ctrl_c_in_parent_only() -> Iterator[None]:
    """Processes that are started in this context ignore Ctrl-C, even while they import; the parent ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass(frozen=True)
class RayCluster:
    """Ray tasks of one processor each, on the cluster at `address` or on a local one that is started for the job.

    Every node must reach the source and the folder under the same path or URL, and have this package installed.
    """

    address: str | None
    workers: int
    """Processors of a local cluster; a cluster that runs already has its own number."""

    def run(
        self, job: Job[Task, Made, Result], tasks: Sequence[Task], progress: Callable[[int], None]
    ) -> Iterator[Result]:
        """Run the tasks on the cluster; see `Executor.run`."""
        ray = _import_ray()
        if not ray.is_initialized():
            local = {} if self.address or os.environ.get("RAY_ADDRESS") else {"num_cpus": self.workers}
            try:
                ray.init(address=self.address, log_to_driver=False, logging_level="ERROR", **local)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise UserError(
                    f"no Ray cluster answers at {self.address} ({error}); start one, or correct --ray-address"
                ) from error
        shared = ray.put(job)
        run = ray.remote(num_cpus=1)(_run_on_ray)
        pending = {run.remote(shared, task): len(task) for task in tasks}
        images = 0
        try:
            while pending:
                done, _ = ray.wait(list(pending), timeout=_REFRESH_SECONDS)
                for reference in done:
                    images += pending.pop(reference)
                    try:
                        result = ray.get(reference)
                    except ray.exceptions.RayTaskError as error:
                        raise error.cause if isinstance(error.cause, UserError) else error from None
                    except ray.exceptions.RayError as error:
                        raise UserError(
                            f"a Ray worker was lost ({type(error).__name__}); run again: finished shards are kept"
                        ) from error
                    yield result
                progress(images)
        finally:
            for reference in pending:
                ray.cancel(reference)


def _run_on_ray(job: Job[Any, Any, Any], task: Sized) -> Any:
    return job.store(job.compute(task, lambda images: None))


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise UserError("--executor ray needs Ray; install it with `pip install 'food101-fast[ray]'`") from error
    return ray
