"""Where a split's decoded rows are kept after the first epoch: in the files, in RAM, or on the device.

Rows in the files are read through the page cache, which for raw shards on a disk is as fast as the process's own RAM.
Keeping them in memory helps where they would be decoded again, or copied to a GPU again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor

from food101_fast.errors import UserError
from food101_fast.loader.buffers import Loaded, host_memory
from food101_fast.shards import Split
from food101_fast.shards.mapped import copy_rows

Residence = Literal["stream", "host", "device", "auto"]

# Shares of the free memory that `auto` may take: a model and its activations come after the loader.
_DEVICE_SHARE = 0.25
_HOST_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Where rows are kept, and why."""

    residence: Literal["stream", "host", "device"]
    reason: str
    """For the user, in one line."""


def choose_residence(
    asked: Residence, need: int, device: torch.device, encoding: str, free_host: int, free_device: int | None
) -> Choice:
    """Decide where the rows are kept; a pure function.

    Args:
        asked: the user's setting.
        need: bytes of all rows of the split.
        device: where batches go.
        encoding: how the shards store images.
        free_host: bytes of RAM that this process may take.
        free_device: free bytes of the device's memory; None on the CPU.

    Raises:
        UserError: the rows don't fit into the memory that was asked for.
    """
    why = "as asked"
    if asked == "device" and free_device is None:
        asked, why = "host", "since the device is the CPU, whose memory is the host's"
    free = free_device if asked == "device" else free_host
    if asked in ("host", "device") and free is not None and need > free:
        raise UserError(
            f"residence {asked!r} needs {_gb(need)} for the split's rows, and {_gb(free)} are free; "
            "use 'auto' or 'stream', or store smaller images"
        )
    if asked == "stream" or asked == "host" or asked == "device":
        return Choice(residence=asked, reason=f"{why}; the rows take {_gb(need)}")
    if free_device is not None and need <= _DEVICE_SHARE * free_device:
        return Choice(residence="device", reason=f"the rows take {_gb(need)} of {_gb(free_device)} free on {device}")
    if encoding == "raw":
        return Choice(residence="stream", reason=f"raw rows ({_gb(need)}) load as fast from files as from RAM")
    if need <= _HOST_SHARE * free_host:
        return Choice(residence="host", reason=f"decoded rows take {_gb(need)} of {_gb(free_host)} free RAM")
    return Choice(residence="stream", reason=f"decoded rows take {_gb(need)}, and {_gb(free_host)} of RAM are free")


def _gb(size: int) -> str:
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"


def free_host_memory() -> int:
    """Bytes of RAM that this process may still take.

    The system's available memory or what is left in the control group, whichever is less, divided by the job's
    processes on this machine (torchrun's LOCAL_WORLD_SIZE).
    """
    free = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
        free = min(free, max(limit, 0))
    except (OSError, ValueError):  # no control groups, or no limit
        pass
    return free // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


class ResidentRows:
    """All rows of a split in the memory of one device; each is stored when it is loaded for the first time.

    Attributes:
        complete: whether all rows are stored, so that the split is not read again.
    """

    def __init__(self, split: Split, device: torch.device) -> None:
        self._split = split
        if device.type == "cpu":
            self._rows = torch.from_numpy(host_memory(len(split), split.row_bytes))
        else:
            self._rows = torch.empty(len(split), split.row_bytes, dtype=torch.uint8, device=device)
        self._labels = torch.empty(len(split), dtype=torch.int64, device=device)
        self._arrived = np.zeros(len(split), np.bool_)
        self.complete = False

    def gather(self, ids: NDArray[np.int64], out: Tensor) -> NDArray[np.int64]:
        """Gather rows on the host as `Split.gather` does, from memory or else from the split, and store them."""
        if self.complete:
            copy_rows(self._rows.data_ptr() + ids * self._split.row_bytes, out)
            return self._labels.numpy()[ids]
        labels = self._split.gather(ids, out)
        self._keep(torch.from_numpy(ids), out, torch.from_numpy(labels))
        self._arrived[ids] = True
        return labels

    def keep(self, loaded: Loaded, ids: NDArray[np.int64]) -> None:
        """Store a batch that is on the device; `ids` are its ids on the host, int64 (n,)."""
        self._keep(loaded.numbers[1], loaded.rows, loaded.numbers[0])
        self._arrived[ids] = True

    def _keep(self, ids: Tensor, rows: Tensor, labels: Tensor) -> None:
        self._rows.index_copy_(0, ids, rows)
        self._labels.index_copy_(0, ids, labels)

    def fill(self, run: Callable[[Iterable[NDArray[np.int64]]], Iterable[object]], batch_size: int) -> None:
        """Load the rows that are missing: those of other ranks, and those that `drop_last` left out.

        Args:
            run: loads batches of ids, which stores them here.
            batch_size: ids of a batch.
        """
        missing = np.flatnonzero(~self._arrived)
        for _ in run(missing[first : first + batch_size] for first in range(0, missing.size, batch_size)):
            pass
        self.complete = True

    def select(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Rows, uint8 (n, row_bytes), and labels, int64 (n,), of `ids`, int64 (n,), all on the device."""
        return self._rows.index_select(0, ids), self._labels.index_select(0, ids)
