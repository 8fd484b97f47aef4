"""Background threads that make batches ahead of the consumer, in order.

There are no worker processes: gathering raw rows and decoding JPEG need no interpreter, so threads run truly in
parallel, and a batch is never pickled, sent or copied a second time. A batch may be filled in several chunks of rows,
so that the threads finish together; the thread that finishes last sends the batch.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import astuple, dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from food101_fast.loader.buffers import Buffer, Loaded, Ring
from food101_fast.torch_threads import use_one_thread

_THREAD_NAME = "shard-loader"


class RowSource(Protocol):
    """What batches are gathered from."""

    def gather(self, ids: NDArray[np.int64], out: Tensor) -> NDArray[np.int64]:
        """Copy the images `ids` (n,) into `out`, uint8 (n, row_bytes), and return their labels, int64 (n,)."""
        ...


class RepeatedRows:
    """A source of which samples are asked for by the numbers that `EpochOrder.draws` returns.

    Args:
        source: where rows come from.
        samples: the remainder by this is a sample's id.
    """

    def __init__(self, source: RowSource, samples: int) -> None:
        self._source = source
        self._samples = samples

    def gather(self, draws: NDArray[np.int64], out: Tensor) -> NDArray[np.int64]:
        """Gather as the source does."""
        return self._source.gather(draws % self._samples, out)


@dataclass
class Counters:
    """What a loader did since it was made."""

    batches: int = 0
    """Batches that the consumer got."""
    images: int = 0
    """Images in them."""
    bytes: int = 0
    """Bytes of their pixels."""
    consumer_wait_seconds: float = 0.0
    """Time that the consumer waited for batches: the loader was too slow."""
    producer_wait_seconds: float = 0.0
    """Time that the loader's threads waited for work, averaged over the threads: the consumer was slower."""
    downloaded_bytes: int = 0
    """Bytes that were downloaded from a remote folder."""

    def since(self, before: Counters) -> Counters:
        """What was counted after `before` was copied."""
        return Counters(*(now - then for now, then in zip(astuple(self), astuple(before), strict=True)))


class Observer(Protocol):
    """Is told what the threads of a pipeline do, such as for a profile."""

    def gathered(self, begin: float, end: float) -> None:
        """A thread gathered a chunk of rows; called in that thread, with times of `time.perf_counter`."""
        ...


Gather = Callable[[NDArray[np.int64], Tensor], NDArray[np.int64]]
"""`RowSource.gather`."""


def _observed(gather: Gather, observer: Observer) -> Gather:
    def timed(ids: NDArray[np.int64], out: Tensor) -> NDArray[np.int64]:
        begin = time.perf_counter()
        labels = gather(ids, out)
        observer.gathered(begin, time.perf_counter())
        return labels

    return timed


class _PendingBatch:
    """A batch that several threads fill.

    Attributes:
        ids: of its samples, int64 (n,).
        result: the batch, once all chunks are filled.
        busy_seconds: time that threads worked on it.
    """

    def __init__(self, ids: NDArray[np.int64], chunks: int, gather: Gather, ring: Ring) -> None:
        self.ids = ids
        self.result: Future[Loaded] = Future()
        self.busy_seconds = 0.0
        self._labels = np.empty_like(ids)
        self._gather = gather
        self._ring = ring
        self._chunks_left = chunks
        self._buffer: Buffer | None = None
        self._lock = threading.Lock()

    def fill(self, rows: slice) -> None:
        """Fill a chunk of rows; the call that fills the last chunk also sends the batch."""
        start = time.perf_counter()
        try:
            if not self.result.done():  # another chunk may have failed
                with self._lock:
                    if self._buffer is None:
                        self._buffer = self._ring.take(self.ids.size)
                    buffer = self._buffer
                self._labels[rows] = self._gather(self.ids[rows], buffer.rows[rows])
            with self._lock:
                self._chunks_left -= 1
                last = self._chunks_left == 0
            if last and not self.result.done():
                assert self._buffer is not None
                numbers = torch.from_numpy(np.stack([self._labels, self.ids]))
                self.result.set_result(self._ring.send(self._buffer, numbers))
        except BaseException as error:
            with self._lock:
                if not self.result.done():
                    self.result.set_exception(error)
        finally:
            self._buffer = None if self.result.done() else self._buffer
            self.busy_seconds += time.perf_counter() - start


class Pipeline:
    """Makes batches of `source` in background threads and yields them in order.

    Args:
        source: where rows come from.
        ring: where they go.
        ahead: batches that are made before the consumer asks for them.
        chunk: rows that one thread gathers at a time.
        counters: where waiting times are added.
    """

    def __init__(self, source: RowSource, ring: Ring, *, ahead: int, chunk: int, counters: Counters) -> None:
        self._source = source
        self._ring = ring
        self._ahead = ahead
        self._chunk = chunk
        self._counters = counters

    def run(
        self, batches: Iterable[NDArray[np.int64]], threads: int, observer: Observer | None = None
    ) -> Iterator[tuple[NDArray[np.int64], Loaded]]:
        """Yield the ids and rows of each batch, in the order of `batches`.

        However this ends, no thread is left.

        Args:
            batches: ids of each batch, int64 (n,).
            threads: that gather at a time.
            observer: is told about each chunk that was gathered; None costs nothing.
        """
        process = os.getpid()
        gather = self._source.gather if observer is None else _observed(self._source.gather, observer)
        pending: deque[_PendingBatch] = deque()
        pool = ThreadPoolExecutor(threads, _THREAD_NAME, use_one_thread)
        start, busy = time.perf_counter(), 0.0
        try:
            for ids in batches:
                pending.append(self._start(pool.submit, ids, gather))
                if len(pending) > self._ahead:
                    yield pending[0].ids, self._wait(pending[0], process)
                    busy += pending.popleft().busy_seconds
            while pending:
                yield pending[0].ids, self._wait(pending[0], process)
                busy += pending.popleft().busy_seconds
        finally:
            # The garbage collector may end this in one of the threads, which can't wait for itself.
            inside = threading.current_thread().name.startswith(_THREAD_NAME)
            pool.shutdown(wait=not inside, cancel_futures=True)
            lasted = time.perf_counter() - start
            self._counters.producer_wait_seconds += max(lasted - busy / threads, 0.0)

    def _start(self, submit: Callable[..., object], ids: NDArray[np.int64], gather: Gather) -> _PendingBatch:
        firsts = range(0, max(ids.size, 1), self._chunk)
        pending_batch = _PendingBatch(ids, len(firsts), gather, self._ring)
        for first in firsts:
            submit(pending_batch.fill, slice(first, first + self._chunk))
        return pending_batch

    def _wait(self, pending_batch: _PendingBatch, process: int) -> Loaded:
        if process != os.getpid():
            raise RuntimeError(
                "this iteration was started in another process, whose threads do not exist here after a fork; "
                "start a new iteration in this process"
            )
        start = time.perf_counter()
        loaded = pending_batch.result.result()
        self._counters.consumer_wait_seconds += time.perf_counter() - start
        return loaded
