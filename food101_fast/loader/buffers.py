"""A ring of reused batch buffers, and the copy to a CUDA device.

A buffer may be filled again only when nobody can read it any more. On the CPU that is when the last tensor over it is
gone: each batch is a fresh array view of its buffer, torch keeps that view for as long as any tensor shares the
memory, and the view's end gives the buffer back. A consumer that keeps batches therefore gets more buffers, never
overwritten ones. On CUDA it is when the copy that reads the pinned buffer has passed its event.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, eq=False)
class HostBatch:
    """uint8 (N, row_bytes) rows, and the labels and ids that belong to them as int64 (2, N)."""

    rows: Tensor
    numbers: Tensor


class HostRing:
    """Buffers in plain memory; the tensors given out are views of them."""

    def __init__(self, rows: int, row_bytes: int) -> None:
        self._shape = (rows, row_bytes)
        self._free: deque[NDArray[np.uint8]] = deque()

    def take(self, rows: int) -> Tensor:
        """A view of the first `rows` rows of a free buffer; when it and all over it are gone the buffer is free."""
        try:
            buffer = self._free.popleft()
        except IndexError:
            buffer = np.empty(self._shape, np.uint8)
        view = buffer[:rows]
        weakref.finalize(view, self._free.append, buffer).atexit = False
        return torch.from_numpy(view)


@dataclass(eq=False)
class PinnedBuffer:
    """Page-locked memory for one batch and the event of the last copy out of it."""

    host: Tensor
    copied: torch.cuda.Event


@dataclass(frozen=True, eq=False)
class DeviceCopy:
    """Tensors on their way to the device; call `wait` on the stream that reads them."""

    rows: Tensor
    numbers: Tensor
    copied: torch.cuda.Event

    def wait(self) -> None:
        """Make the current stream, not the host, wait for the copy."""
        stream = torch.cuda.current_stream(self.rows.device)
        stream.wait_event(self.copied)
        # They were allocated on the copy stream: their memory may be reused only after the reader is done, too.
        self.rows.record_stream(stream)
        self.numbers.record_stream(stream)


class PinnedRing:
    """Page-locked buffers that are copied to a CUDA device on a stream of their own.

    Args:
        rows: rows of a full batch.
        row_bytes: bytes of a row.
        device: the CUDA device.
        slots: buffers at the most; a thread that finds all of them under way waits for the oldest copy.
    """

    def __init__(self, rows: int, row_bytes: int, device: torch.device, slots: int) -> None:
        self._shape = (rows, row_bytes)
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._slots = slots
        self._made = 0
        self._lock = threading.Lock()
        self._queue: deque[PinnedBuffer] = deque()

    def take(self) -> PinnedBuffer:
        """A buffer whose last copy is over. Only background threads call this, so waiting here stalls nobody."""
        with self._lock:
            reuse = self._queue and (self._queue[0].copied.query() or self._made >= self._slots)
            buffer = self._queue.popleft() if reuse else None
            self._made += buffer is None
        if buffer is None:
            host = torch.empty(self._shape, dtype=torch.uint8, pin_memory=True)
            return PinnedBuffer(host, torch.cuda.Event())
        buffer.copied.synchronize()
        return buffer

    def send(self, buffer: PinnedBuffer, numbers: Tensor) -> DeviceCopy:
        """Start the copy of the rows that `numbers` (2, rows) belongs to, and put the buffer back into the ring."""
        pinned = numbers.pin_memory()
        with torch.cuda.stream(self._stream):
            copy = DeviceCopy(
                buffer.host[: numbers.shape[1]].to(self._device, non_blocking=True),
                pinned.to(self._device, non_blocking=True),
                torch.cuda.Event(),
            )
            copy.copied.record(self._stream)
        buffer.copied = copy.copied
        with self._lock:
            self._queue.append(buffer)
        return copy
