"""Rings of reused batch buffers, on the host and with a copy to a CUDA device.

A buffer may be filled again only when nobody can read it any more. On the CPU that is when no tensor uses its memory:
each batch is a new array view of its buffer, torch keeps that view as long as any tensor shares the memory, and the
end of the view returns the buffer to the ring. So a consumer that keeps batches gets more buffers, never overwritten
ones. On CUDA it is when the event after the copy out of the pinned buffer is complete.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Loaded:
    """A batch on the device, or being copied there; call `wait` on the stream that reads it."""

    rows: Tensor
    """uint8 (N, row_bytes)."""
    numbers: Tensor
    """int64 (2, N), labels and ids."""
    copied: torch.cuda.Event | None = None
    """Complete when rows and numbers are on the device; None if they are already."""

    def wait(self) -> None:
        """Make the current stream, not the host, wait for the copy."""
        if self.copied is not None:
            stream = torch.cuda.current_stream(self.rows.device)
            stream.wait_event(self.copied)
            # Allocated on the copy stream: their memory may be reused only after this stream has read it.
            self.rows.record_stream(stream)
            self.numbers.record_stream(stream)


@dataclass(eq=False)
class Buffer:
    """Memory for one batch on the host."""

    rows: Tensor
    """uint8 (N, row_bytes)."""
    owner: PinnedMemory | None = None
    """The pinned memory that `rows` is a view of; None for other memory."""


class Ring(Protocol):
    """Buffers that are taken, filled and sent, each by one thread at a time."""

    def take(self, rows: int) -> Buffer:
        """Return a buffer for `rows` rows that nobody reads."""
        ...

    def send(self, buffer: Buffer, numbers: Tensor) -> Loaded:
        """Send the filled buffer to the consumer, with labels and ids, int64 (2, rows) on the CPU."""
        ...


def host_memory(rows: int, row_bytes: int) -> NDArray[np.uint8]:
    """Allocate uninitialized memory, uint8 (rows, row_bytes).

    NumPy asks the kernel for huge pages, and torch does not: with them the first write to each page takes a sixth of
    the time. The memory starts at a multiple of 64 bytes, a cache line, as torch's does; with NumPy's alignment of 16
    bytes every wide store would touch two lines.
    """
    size = rows * row_bytes
    memory = np.empty(size + 63, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].reshape(rows, row_bytes)


class HostRing:
    """Buffers in plain memory; batches are views of them."""

    def __init__(self, rows: int, row_bytes: int) -> None:
        self._shape = (rows, row_bytes)
        self._free: deque[NDArray[np.uint8]] = deque()

    def take(self, rows: int) -> Buffer:
        """A view of the first `rows` rows of a free buffer, which is free again when nothing uses the view."""
        try:
            memory = self._free.popleft()
        except IndexError:
            memory = host_memory(*self._shape)
        view = memory[:rows]
        weakref.finalize(view, self._free.append, memory).atexit = False
        return Buffer(torch.from_numpy(view))

    def send(self, buffer: Buffer, numbers: Tensor) -> Loaded:
        """Return the rows without a copy."""
        return Loaded(buffer.rows, numbers)


@dataclass(eq=False)
class PinnedMemory:
    """Page-locked memory for one batch."""

    host: Tensor
    """uint8 (rows, row_bytes)."""
    copied: torch.cuda.Event
    """Complete when the last copy out of the memory is."""


class PinnedRing:
    """Page-locked buffers that are copied to a CUDA device on a stream of their own.

    Args:
        rows: rows of a full batch.
        row_bytes: bytes of a row.
        device: the CUDA device.
        slots: largest number of buffers; if all are being copied, a thread waits for the oldest copy.
    """

    def __init__(self, rows: int, row_bytes: int, device: torch.device, slots: int) -> None:
        self._shape = (rows, row_bytes)
        self._device = device
        self.stream = torch.cuda.Stream(device)
        self._slots = slots
        self._made = 0
        self._lock = threading.Lock()
        self._queue: deque[PinnedMemory] = deque()

    def take(self, rows: int) -> Buffer:
        """A buffer whose last copy is complete. Only background threads call this, so the consumer does not wait."""
        with self._lock:
            reuse = self._queue and (self._queue[0].copied.query() or self._made >= self._slots)
            memory = self._queue.popleft() if reuse else None
            self._made += memory is None
        if memory is None:
            memory = PinnedMemory(torch.empty(self._shape, dtype=torch.uint8, pin_memory=True), torch.cuda.Event())
        else:
            memory.copied.synchronize()
        return Buffer(memory.host[:rows], memory)

    def send(self, buffer: Buffer, numbers: Tensor) -> Loaded:
        """Start the copy, and return the buffer to the ring, which reuses it after the copy."""
        assert buffer.owner is not None
        pinned = numbers.pin_memory()
        with torch.cuda.stream(self.stream):
            loaded = Loaded(
                buffer.rows.to(self._device, non_blocking=True),
                pinned.to(self._device, non_blocking=True),
                torch.cuda.Event(),
            )
            assert loaded.copied is not None
            loaded.copied.record(self.stream)
        buffer.owner.copied = loaded.copied
        with self._lock:
            self._queue.append(buffer.owner)
        return loaded
