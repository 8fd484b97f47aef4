"""ShardLoader: shards in, shuffled batches on the device out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from food101_fast.errors import UserError
from food101_fast.loader.buffers import HostRing, Loaded, PinnedRing, Ring
from food101_fast.loader.nvjpeg import DeviceRing, GpuDecoder, torchcodec_decoder
from food101_fast.loader.order import EpochOrder, rank_slice, steps_per_epoch
from food101_fast.loader.pipeline import Counters, Pipeline, RowSource
from food101_fast.loader.residence import Residence, ResidentRows, choose_residence, free_host_memory
from food101_fast.processes import usable_cores
from food101_fast.shards import ShardSet
from food101_fast.shards.split import Verify

STATE_VERSION = 2

# Rows that one thread gathers at a time. A batch of raw rows is over so soon that parts of it would only cost; of
# encoded ones a whole batch takes so long that at an epoch's end one thread would work and the others wait.
_RAW_PART, _ENCODED_PART = 1024, 32


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


class ShardLoader:
    """Iterates over one split of a folder of shards, an epoch per iteration.

    Every sample comes exactly once per epoch, over all ranks together; with `drop_last`, the default, the last samples
    of the epoch's order are left out if they do not fill a global batch: others in each epoch. The order depends on
    the seed, the epoch, the samples and the window only, so that step 1,000 sees the same images on 1 or 8 ranks at
    the same global batch, which is `batch_size` times `world_size`. Each full iteration moves on to the next epoch by
    itself; `set_epoch` chooses one. Iterations of one loader come after each other, not at the same time.

    A loader may be sent to another process (it opens its files there) and used after a fork; only an iteration that
    was begun before a fork can't go on after it.

    Args:
        path: folder of shards or its URL, or an open ShardSet.
        split: `train`, `val` or `test`.
        batch_size: samples per batch on this rank.
        device: where batches go, such as `cpu` or `cuda`.
        seed: another seed gives other orders.
        rank: this process's place among `world_size`.
        world_size: processes that share the epoch.
        shuffle: whether epochs are permuted or in the order of the shards.
        drop_last: leave out the last global batch if it is not full. Without it every rank still makes the same
            number of batches; the last may differ in size by one, or be empty.
        window: samples that are shuffled among each other; None for all, the best shuffle. With a smaller window
            shards are shuffled, and samples among the shards of a window, so that only three windows' shards are
            needed at a time, on the disk and in memory. Without shuffling it has no meaning.
        residence: where rows are after the first epoch: `stream` leaves them in their files, `host` holds them decoded
            in RAM, `device` in the device's memory, from where later epochs move nothing; `auto` decides from what is
            free, and says so in `residence_reason`.
        verify: when a sample's bytes are compared with their checksum: the first time they are read here, always, or
            never.
        decode: `cpu`, or `gpu` for JPEG shards and CUDA (nvJPEG through torchcodec, extra `gpu-decode`).
        threads: background threads. None for as many as this process has cores if rows must be decoded, and for one if
            they are raw. A second one helps with raw rows, if there is a core for it, in the first epoch and while
            most checksums are still to be compared.
        prefetch: batches that are made ahead of the consumer.

    Attributes:
        counters: what was done since the loader was made: batches, images, bytes, waiting of either side.
        residence: `stream`, `host` or `device`.
        residence_reason: why it is that.
        threads: background threads that make batches, without the one that helps in the first epoch.

    Raises:
        UserError: the folder or the device can't be used, or there are too few samples for one global batch.
        ValueError: an argument is out of its range.
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
        window: int | None = None,
        residence: Residence = "stream",
        verify: Verify = "first-epoch",
        decode: Literal["cpu", "gpu"] = "cpu",
        threads: int | None = None,
        prefetch: int = 4,
    ) -> None:
        self._arguments: dict[str, Any] = {
            "split": split,
            "batch_size": batch_size,
            "device": device,
            "seed": seed,
            "rank": rank,
            "world_size": world_size,
            "shuffle": shuffle,
            "drop_last": drop_last,
            "window": window,
            "residence": residence,
            "verify": verify,
            "decode": decode,
            "threads": threads,
            "prefetch": prefetch,
        }
        _check(**self._arguments)
        if torch.device(device).type == "cuda" and not torch.cuda.is_available():
            raise UserError(f"device {str(device)!r}: torch finds no CUDA device here; use device='cpu'")
        self.shards = path if isinstance(path, ShardSet) else ShardSet.open(path)
        self.split = self.shards.split(split, verify=verify)
        self.batch_size = batch_size
        self.device = torch.device(device)
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.window = window if window is not None and window < len(self.split) else None
        self.counters = Counters()
        self.epoch = 0
        self._step = 0
        self._resume_at = 0
        self._epochs_whole = 0
        if not len(self):
            raise UserError(
                f"split {split!r} of the shards in {self.shards.folder.url} has {len(self.split)} samples, "
                f"fewer than one batch of {self.global_batch}; use a smaller batch size"
            )
        raw = self.split.encoding == "raw"
        cores = _usable_cores()
        helps = raw and threads is None and cores > 1
        threads = threads or (1 if raw else cores)
        self.threads, self._most_threads = threads, threads + helps
        ring: Ring = HostRing(batch_size, self.split.row_bytes)
        source: RowSource = self.split
        part = _RAW_PART if raw else _ENCODED_PART
        if self.device.type == "cuda":
            ring = PinnedRing(batch_size, self.split.row_bytes, self.device, slots=self._most_threads + 2)
        if decode == "gpu":
            if self.device.type != "cuda":
                raise UserError(f"decode 'gpu' needs a CUDA device, and batches go to {self.device}; use decode 'cpu'")
            decoder = GpuDecoder(self.split, self.device, torchcodec_decoder())
            ring = DeviceRing(self.split.row_bytes, self.device, decoder.stream)
            source, part = decoder, batch_size  # the decoder wants a batch at a time
        self._held: ResidentRows | None = None
        self._choose_residence(residence, decode)
        if self.residence == "host" and self._held is not None:
            source = self._held
        self._pipeline = Pipeline(source, ring, ahead=prefetch, part_rows=part, counters=self.counters)
        self._check_space()
        if self.window is None and self.split.is_local:
            self.split.open_all()

    def _choose_residence(self, asked: Residence, decode: str) -> None:
        free_device = torch.cuda.mem_get_info(self.device)[0] if self.device.type == "cuda" else None
        need = len(self.split) * self.split.row_bytes
        choice = choose_residence(asked, need, self.device, self.split.encoding, free_host_memory(), free_device)
        if decode == "gpu" and choice.residence == "host":
            raise UserError("decode 'gpu' and residence 'host' cannot be combined; use residence 'device' or 'stream'")
        self.residence: str = choice.residence
        self.residence_reason = choice.reason
        if self.residence != "stream":
            self._held = ResidentRows(self.split, self.device if self.residence == "device" else torch.device("cpu"))

    def _check_space(self) -> None:
        """Three neighbouring windows must be within the cache's limit: a batch may lie across two, and the next is
        downloaded ahead. Those of the first epoch stand for all."""
        if self.split.is_local:
            return
        order = self._order()
        sizes = self.split.shard_bytes
        runs = (range(window, min(window + 3, order.windows)) for window in range(order.windows))
        together = (np.concatenate([order.shards_of(window) for window in run]) for run in runs)
        largest = max(together, key=lambda shards: int(sizes[shards].sum()))
        self.split.files.check_space([self.split.entries[shard] for shard in largest])

    def __reduce__(self) -> tuple[Any, ...]:
        return _remade, (self.shards, self._arguments, self.epoch, self._step)

    @property
    def global_batch(self) -> int:
        """Samples in one step over all ranks."""
        return self.batch_size * self.world_size

    def __len__(self) -> int:
        """Batches in an epoch, the same on every rank."""
        return steps_per_epoch(len(self.split), self.global_batch, drop_last=self.drop_last)

    def step_ids(self, epoch: int, step: int) -> NDArray[np.int64]:
        """Ids of all ranks' samples in a step of an epoch, in order, with nothing read: int64 (global batch,)."""
        part = rank_slice(len(self.split), self.global_batch, step, rank=0, world_size=1)
        return self._order(epoch).ids(part.start, part.stop)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration goes through."""
        self.epoch = epoch
        self._step = self._resume_at = 0

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands, after any batch; plain numbers and strings, fit for JSON."""
        return {**self._identity(), "epoch": self.epoch, "step": self._step}

    def _identity(self) -> dict[str, Any]:
        """What the order depends on besides the epoch."""
        return {
            "version": STATE_VERSION,
            "data": self.shards.manifest.digest,
            "split": self.split.name,
            "global_batch": self.global_batch,
            "seed": self.seed,
            "shuffle": self.shuffle,
            "window": self.window,
            "drop_last": self.drop_last,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken: the next iteration starts with the batch after it.

        The number of ranks, threads and the residence may have changed; what may not is the order, so the data, split,
        global batch, seed and window must be the same.

        Raises:
            UserError: `state` belongs to another order, or is no state of a loader.
        """
        if not isinstance(state, dict):
            raise UserError(f"a loader's saved state is a dict, and this is a {type(state).__name__}")
        for name, own in self._identity().items():
            if state.get(name) != own:
                raise UserError(
                    f"the loader's saved state has {name} {state.get(name)!r} and this loader has {own!r}; "
                    "go on with the same shards, global batch, seed and window"
                )
        epoch, step = state.get("epoch"), state.get("step")
        if not isinstance(epoch, int) or not isinstance(step, int) or epoch < 0 or not 0 <= step <= len(self):
            raise UserError(
                f"the loader's saved state has epoch {epoch!r} and step {step!r}, and an epoch has {len(self)} steps; "
                "the state is damaged: begin the epoch anew with set_epoch"
            )
        self.epoch = epoch
        self._step = self._resume_at = step

    def __iter__(self) -> Iterator[Batch]:
        order = self._order()
        steps = range(self._resume_at, len(self))
        self._step, self._resume_at = self._resume_at, 0
        whole = steps.start == 0
        with self.split.files.downloading():
            if self._held is not None and self._epochs_whole and not self._held.complete:
                self._held.fill(self._run, self.batch_size)
            for loaded in self._loaded(order, steps):
                self._step += 1
                self.counters.batches += 1
                self.counters.images += loaded.rows.shape[0]
                self.counters.bytes += loaded.rows.numel()
                self.counters.downloaded_bytes = self.split.files.downloaded
                size = self.split.image_size
                images = loaded.rows.view(-1, size, size, 3).permute(0, 3, 1, 2)
                yield Batch(images, loaded.numbers[0], loaded.numbers[1])
        self._epochs_whole += whole
        self.epoch, self._step = self.epoch + 1, 0

    def _loaded(self, order: EpochOrder, steps: range) -> Iterator[Loaded]:
        if self.residence == "device" and self._held is not None and self._held.complete:
            return self._resident(order, steps)
        return self._run(self._ids(order, steps))

    def _run(self, batches: Iterable[NDArray[np.int64]]) -> Iterator[Loaded]:
        """Batches made by the threads; kept on the device, if that is where they are to be held."""
        under_way: list[NDArray[np.int64]] = []

        def noted() -> Iterator[NDArray[np.int64]]:
            for ids in batches:
                under_way.append(ids)
                yield ids

        # Rows that are read for the first time take longer: their pages are mapped and their checksums compared.
        slow = not self._epochs_whole or self.split.unchecked > len(self.split) // 2
        for loaded in self._pipeline.run(noted(), self._most_threads if slow else self.threads):
            loaded.wait()
            ids = under_way.pop(0)
            if self.residence == "device" and self._held is not None:
                self._held.keep(loaded, ids)
            yield loaded

    def _resident(self, order: EpochOrder, steps: range) -> Iterator[Loaded]:
        """Batches of rows that are on the device: the epoch's ids are sent there at once, and then nothing."""
        assert self._held is not None
        parts = list(self._ids(order, steps))
        ids = torch.from_numpy(np.concatenate([np.empty(0, np.int64), *parts]))
        if self.device.type == "cuda":
            ids = ids.pin_memory()  # a copy from other memory would wait for all that the device has to do
        ids = ids.to(self.device, non_blocking=True)
        for of_step in torch.split(ids, [part.size for part in parts]):
            rows, labels = self._held.select(of_step)
            yield Loaded(rows, torch.stack([labels, of_step]))

    def _order(self, epoch: int | None = None) -> EpochOrder:
        number = self.epoch if epoch is None else epoch
        return EpochOrder(
            self.split.shard_samples, seed=self.seed, epoch=number, shuffle=self.shuffle, window=self.window
        )

    def _ids(self, order: EpochOrder, steps: range) -> Iterator[NDArray[np.int64]]:
        """This rank's ids of each step; downloads are begun when a step enters a window."""
        held = self._held is not None and self._held.complete
        needs_shards = not held and (self.window is not None or not self.split.is_local)
        entered = -1
        for step in steps:
            part = rank_slice(len(self.split), self.global_batch, step, self.rank, self.world_size)
            last = order.window_at(max(part.stop - 1, 0))
            if last > entered and needs_shards:
                first = order.window_at(part.start)
                windows = range(first, min(last + 2, order.windows))
                shards = np.concatenate([order.shards_of(window) for window in windows])
                self.split.prefetch(shards)
                entered = last
            yield order.ids(part.start, part.stop)


def _check(
    *,
    seed: int,
    rank: int,
    world_size: int,
    residence: Residence,
    verify: Verify,
    decode: str,
    **others: Any,
) -> None:
    """Refuse arguments that are out of their range."""
    for name in ("batch_size", "prefetch", "threads", "window"):
        count = others[name]
        if count is not None and (not isinstance(count, Integral) or count < 1):
            raise ValueError(f"{name} should be a whole number of at least 1 and is {count!r}")
    for name, value, choices in (
        ("residence", residence, get_args(Residence)),
        ("verify", verify, get_args(Verify)),
        ("decode", decode, ("cpu", "gpu")),
    ):
        if value not in choices:
            raise ValueError(f"{name} should be one of {', '.join(choices)} and is {value!r}")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank should be at least 0 and below world_size, and is {rank} of {world_size}")
    if not isinstance(seed, Integral) or seed < 0:
        raise ValueError(f"seed should be a whole number of at least 0 and is {seed!r}")


def _remade(shards: ShardSet, arguments: dict[str, Any], epoch: int, step: int) -> ShardLoader:
    loader = ShardLoader(shards, **arguments)
    loader.load_state_dict(loader.state_dict() | {"epoch": epoch, "step": step})
    return loader


def _usable_cores() -> int:
    """Cores for this process: those it may run on, shared with the other ranks on this machine."""
    return max(usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)
