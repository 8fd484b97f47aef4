"""Rings of reused batch buffers, on the host and with a copy to a CUDA device.

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
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Loaded:
    """A batch on the device, or on its way there; call `wait` on the stream that reads it."""

    rows: Tensor
    """uint8 (N, row_bytes)."""
    numbers: Tensor
    """int64 (2, N), labels and ids."""
    copied: torch.cuda.Event | None = None

    def wait(self) -> None:
        """Make the current stream, not the host, wait for the copy."""
        if self.copied is not None:
            stream = torch.cuda.current_stream(self.rows.device)
            stream.wait_event(self.copied)
            # They were allocated on the copy stream: their memory may be reused only after the reader is done, too.
            self.rows.record_stream(stream)
            self.numbers.record_stream(stream)


@dataclass(eq=False)
class Buffer:
    """Memory for one batch on the host."""

    rows: Tensor
    """uint8 (N, row_bytes)."""
    owner: PinnedMemory | None = None


class Ring(Protocol):
    """Buffers that are taken, filled and sent, each by one thread at a time."""

    def take(self, rows: int) -> Buffer:
        """A buffer for so many rows that nobody reads."""
        ...

    def send(self, buffer: Buffer, numbers: Tensor) -> Loaded:
        """Give the filled buffer to the consumer, with labels and ids, int64 (2, rows) on the CPU."""
        ...


def host_memory(rows: int, row_bytes: int) -> NDArray[np.uint8]:
    """Memory that nothing was written to yet, uint8 (rows, row_bytes).

    NumPy asks the kernel for huge pages, which torch does not: the first write to each page then takes a sixth of the
    time. It begins at a multiple of 64 bytes, a cache line, as torch's does; from NumPy's 16 every wide store would
    touch two.
    """
    size = rows * row_bytes
    memory = np.empty(size + 63, np.uint8)
    begin = -memory.ctypes.data % 64
    return memory[begin : begin + size].reshape(rows, row_bytes)


class HostRing:
    """Buffers in plain memory; the tensors given out are views of them."""

    def __init__(self, rows: int, row_bytes: int) -> None:
        self._shape = (rows, row_bytes)
        self._free: deque[NDArray[np.uint8]] = deque()

    def take(self, rows: int) -> Buffer:
        """A view of the first `rows` rows of a free buffer; when it and all over it are gone the buffer is free."""
        try:
            memory = self._free.popleft()
        except IndexError:
            memory = host_memory(*self._shape)
        view = memory[:rows]
        weakref.finalize(view, self._free.append, memory).atexit = False
        return Buffer(torch.from_numpy(view))

    def send(self, buffer: Buffer, numbers: Tensor) -> Loaded:
        return Loaded(buffer.rows, numbers)


@dataclass(eq=False)
class PinnedMemory:
    """Page-locked memory for one batch and the event of the last copy out of it."""

    host: Tensor
    copied: torch.cuda.Event


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
        self.stream = torch.cuda.Stream(device)
        self._slots = slots
        self._made = 0
        self._lock = threading.Lock()
        self._queue: deque[PinnedMemory] = deque()

    def take(self, rows: int) -> Buffer:
        """A buffer whose last copy is over. Only background threads call this, so waiting here stalls nobody."""
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
        """Start the copy, and put the buffer back into the ring, where it waits until the copy is over."""
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
