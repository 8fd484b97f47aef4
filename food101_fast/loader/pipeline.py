"""Background threads that make batches ahead of the consumer, in order.

There are no worker processes: gathering raw rows and decoding JPEG need no interpreter, so threads run truly in
parallel, and a batch is never pickled, sent or copied a second time. A batch may be made in several parts, so that
the threads end together; the one that ends last sends it off.
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


@dataclass
class Counters:
    """What a loader has done since it was made, as plain numbers."""

    batches: int = 0
    """Batches that the consumer got."""
    images: int = 0
    bytes: int = 0
    """Bytes of their pixels."""
    consumer_wait_seconds: float = 0.0
    """Time that the consumer waited for batches: the loader was too slow."""
    producer_wait_seconds: float = 0.0
    """Time that the loader's threads waited for work, as a mean over the threads: the consumer was slower."""
    downloaded_bytes: int = 0
    """Bytes that were downloaded from a remote folder."""

    def since(self, before: Counters) -> Counters:
        """What was counted after `before` was copied."""
        return Counters(*(now - then for now, then in zip(astuple(self), astuple(before), strict=True)))


class _PendingBatch:
    """A batch that several threads fill."""

    def __init__(self, ids: NDArray[np.int64], parts: int, source: RowSource, ring: Ring) -> None:
        self.result: Future[Loaded] = Future()
        self.busy_seconds = 0.0
        self._ids = ids
        self._labels = np.empty_like(ids)
        self._source = source
        self._ring = ring
        self._left = parts
        self._buffer: Buffer | None = None
        self._lock = threading.Lock()

    def fill(self, part: slice) -> None:
        """Fill the rows `part`; of the last call the batch goes off."""
        start = time.perf_counter()
        try:
            if not self.result.done():  # another part may have failed
                with self._lock:
                    if self._buffer is None:
                        self._buffer = self._ring.take(self._ids.size)
                    buffer = self._buffer
                self._labels[part] = self._source.gather(self._ids[part], buffer.rows[part])
            with self._lock:
                self._left -= 1
                last = self._left == 0
            if last and not self.result.done():
                assert self._buffer is not None
                numbers = torch.from_numpy(np.stack([self._labels, self._ids]))
                self.result.set_result(self._ring.send(self._buffer, numbers))
        except BaseException as error:
            with self._lock:
                if not self.result.done():
                    self.result.set_exception(error)
        finally:
            self._buffer = None if self.result.done() else self._buffer
            self.busy_seconds += time.perf_counter() - start


class Pipeline:
    """Makes batches of `source` in background threads and gives them out in order.

    Args:
        source: where rows come from.
        ring: where they go.
        ahead: batches that are made before the consumer asks for them.
        part_rows: rows that one thread gathers at a time.
        counters: what is counted goes here.
    """

    def __init__(self, source: RowSource, ring: Ring, *, ahead: int, part_rows: int, counters: Counters) -> None:
        self._source = source
        self._ring = ring
        self._ahead = ahead
        self._part_rows = part_rows
        self._counters = counters

    def run(self, batches: Iterable[NDArray[np.int64]], threads: int) -> Iterator[Loaded]:
        """The batches with the ids `batches`, each as soon as it is ready and all before it were given out.

        However this ends, no thread is left.

        Args:
            batches: ids of each batch, int64 (n,).
            threads: that gather at a time.
        """
        process = os.getpid()
        pending: deque[_PendingBatch] = deque()
        pool = ThreadPoolExecutor(threads, _THREAD_NAME, use_one_thread)
        begun, busy = time.perf_counter(), 0.0
        try:
            for ids in batches:
                pending.append(self._start(pool.submit, ids))
                if len(pending) > self._ahead:
                    yield self._next(pending[0], process)
                    busy += pending.popleft().busy_seconds
            while pending:
                yield self._next(pending[0], process)
                busy += pending.popleft().busy_seconds
        finally:
            # The garbage collector may end this in one of the threads, which can't wait for itself.
            inside = threading.current_thread().name.startswith(_THREAD_NAME)
            pool.shutdown(wait=not inside, cancel_futures=True)
            lasted = time.perf_counter() - begun
            self._counters.producer_wait_seconds += max(lasted - busy / threads, 0.0)

    def _start(self, submit: Callable[..., object], ids: NDArray[np.int64]) -> _PendingBatch:
        firsts = range(0, max(ids.size, 1), self._part_rows)
        pending_batch = _PendingBatch(ids, len(firsts), self._source, self._ring)
        for first in firsts:
            submit(pending_batch.fill, slice(first, first + self._part_rows))
        return pending_batch

    def _next(self, pending_batch: _PendingBatch, process: int) -> Loaded:
        if process != os.getpid():
            raise RuntimeError(
                "this iteration was begun in another process, whose threads are not here after a fork; "
                "begin a new one in this process"
            )
        start = time.perf_counter()
        loaded = pending_batch.result.result()
        self._counters.consumer_wait_seconds += time.perf_counter() - start
        return loaded
