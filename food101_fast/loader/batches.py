"""ShardLoader: shards in, shuffled batches on the device out, gathered by background threads at memory speed.

There are no worker processes: a gather of raw rows is a memory copy, which needs no interpreter, so threads run truly
in parallel and a batch is never pickled, sent or copied a second time.
"""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController
from torch import Tensor

from food101_fast.errors import UserError
from food101_fast.loader.buffers import DeviceCopy, HostBatch, HostRing, PinnedRing
from food101_fast.loader.order import epoch_order, rank_slice, steps_per_epoch
from food101_fast.shards import ShardSet

STATE_VERSION = 1


@dataclass(frozen=True, eq=False)
class Batch:
    """One step's samples on one rank.

    Attributes:
        images: uint8 (N, 3, H, W), channels_last memory, on the loader's device.
        labels: int64 (N,), on the loader's device.
        ids: int64 (N,), global sample ids within the split, on the loader's device.
    """

    images: Tensor
    labels: Tensor
    ids: Tensor


@functools.cache
def _thread_pools() -> ThreadpoolController:
    return ThreadpoolController()


def _use_one_openmp_thread() -> None:
    """Run torch's operators of the calling thread in that thread alone; others keep their number of threads.

    `torch.set_num_threads` would change them for the whole process.
    """
    torch.get_num_threads()  # torch sets a thread's number when it is first asked for, which would undo the limit
    _thread_pools().limit(limits=1, user_api="openmp")


class ShardLoader:
    """Iterates over one split of a folder of shards, an epoch per iteration.

    Every sample comes exactly once per epoch, over all ranks together; with `drop_last`, the default, the last samples
    of the epoch's order are left out if they do not fill a global batch: others in each epoch. The order depends on
    the seed, the epoch and the number of samples only, so that step 1,000 sees the same images on 1 or 8 ranks at the
    same global batch, which is `batch_size` times `world_size`. Each full iteration moves on to the next epoch by
    itself; `set_epoch` chooses one.

    Args:
        path: folder of shards, or an open ShardSet.
        split: `train`, `val` or `test`.
        batch_size: samples per batch on this rank.
        device: where batches go, such as `cpu` or `cuda`.
        seed: another seed gives other orders.
        rank: this process's place among `world_size`.
        world_size: processes that share the epoch.
        shuffle: whether epochs are permuted or in the order of the shards.
        drop_last: leave out the last global batch if it is not full. Without it every rank still makes the same
            number of batches; the last may differ in size by one, or be empty.
        threads: background threads that gather. On two cores one reached two thirds of the rate of two.
        prefetch: batches that are gathered ahead of the consumer.

    Attributes:
        wait_seconds: time that the consumer has spent waiting for batches, since the loader was made.

    Raises:
        UserError: the folder or the device can't be used, or there are too few samples for one global batch.
    """

    def __init__(
        self,
        path: str | Path | ShardSet,
        *,
        split: str,
        batch_size: int,
        device: str | torch.device = "cpu",
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        drop_last: bool = True,
        threads: int = 2,
        prefetch: int = 4,
    ) -> None:
        if batch_size < 1 or threads < 1 or prefetch < 1 or not 0 <= rank < world_size:
            raise ValueError(
                f"batch_size {batch_size}, threads {threads} and prefetch {prefetch} should be at least 1, and "
                f"rank {rank} below world_size {world_size}"
            )
        if torch.device(device).type == "cuda" and not torch.cuda.is_available():
            raise UserError(f"device {str(device)!r}: torch finds no CUDA device here; use device='cpu'")
        self.shards = path if isinstance(path, ShardSet) else ShardSet.open(path)
        self.split = self.shards.split(split)
        self.batch_size = batch_size
        self.device = torch.device(device)
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.threads = threads
        self.prefetch = prefetch
        self.wait_seconds = 0.0
        self.epoch = 0
        self._step = 0
        self._resume_at = 0
        if not len(self):
            raise UserError(
                f"split {split!r} of {self.shards.path} has {len(self.split)} samples, fewer than one batch of "
                f"{self.global_batch}; use a smaller batch size"
            )
        self._host_ring = HostRing(batch_size, self.split.row_bytes)
        self._pinned_ring = (
            PinnedRing(batch_size, self.split.row_bytes, self.device, slots=threads + 2)
            if self.device.type == "cuda"
            else None
        )

    @property
    def global_batch(self) -> int:
        """Samples in one step over all ranks."""
        return self.batch_size * self.world_size

    def __len__(self) -> int:
        """Batches in an epoch, the same on every rank."""
        return steps_per_epoch(len(self.split), self.global_batch, drop_last=self.drop_last)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration goes through."""
        self.epoch = epoch
        self._step = self._resume_at = 0

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands, after any batch; plain numbers and strings, fit for JSON."""
        return {
            "version": STATE_VERSION,
            "data": self.shards.manifest.digest,
            "split": self.split.name,
            "global_batch": self.global_batch,
            "seed": self.seed,
            "epoch": self.epoch,
            "step": self._step,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken: the next iteration starts with the batch after it.

        The number of ranks may have changed; what may not is the order, so the data, split, global batch and seed
        must be the same.

        Raises:
            UserError: `state` belongs to another order.
        """
        own = self.state_dict()
        for name in ("version", "data", "split", "global_batch", "seed"):
            if state.get(name) != own[name]:
                raise UserError(
                    f"the loader's saved state has {name} {state.get(name)!r} and this loader has {own[name]!r}; "
                    "go on with the same shards, global batch and seed"
                )
        self.epoch = state["epoch"]
        self._step = self._resume_at = state["step"]

    def __iter__(self) -> Iterator[Batch]:
        order = epoch_order(len(self.split), seed=self.seed, epoch=self.epoch, shuffle=self.shuffle)
        steps = range(self._resume_at, len(self))
        self._step, self._resume_at = self._resume_at, 0
        pending: deque[Future[DeviceCopy | HostBatch]] = deque()
        pool = ThreadPoolExecutor(self.threads, "shard-loader", _use_one_openmp_thread)
        try:
            for step in steps:
                part = rank_slice(len(self.split), self.global_batch, step, self.rank, self.world_size)
                pending.append(pool.submit(self._load, order[part]))
                if len(pending) > self.prefetch:
                    yield self._next(pending)
            while pending:
                yield self._next(pending)
            self.epoch, self._step = self.epoch + 1, 0
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _next(self, pending: deque[Future[DeviceCopy | HostBatch]]) -> Batch:
        start = time.perf_counter()
        loaded = pending.popleft().result()
        self.wait_seconds += time.perf_counter() - start
        self._step += 1
        if isinstance(loaded, DeviceCopy):
            loaded.wait()
        size = self.split.image_size
        images = loaded.rows.view(loaded.rows.shape[0], size, size, 3).permute(0, 3, 1, 2)
        return Batch(images, loaded.numbers[0], loaded.numbers[1])

    def _load(self, ids: NDArray[np.int64]) -> DeviceCopy | HostBatch:
        """Gather one batch; runs in a background thread."""
        numbers = torch.from_numpy(np.stack([self.split.labels[ids], ids]))
        if self._pinned_ring is not None:
            buffer = self._pinned_ring.take()
            self.split.gather(ids, buffer.host[: ids.size])
            return self._pinned_ring.send(buffer, numbers)
        rows = self._host_ring.take(ids.size)
        self.split.gather(ids, rows)
        return HostBatch(rows.to(self.device), numbers.to(self.device))
