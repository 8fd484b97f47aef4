"""ShardLoader: shards in, shuffled batches on the device out."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from food101_fast.errors import UserError
from food101_fast.loader.batch import Batch
from food101_fast.loader.buffers import HostRing, Loaded, PinnedRing, Ring
from food101_fast.loader.config import LoaderConfig
from food101_fast.loader.nvjpeg import DeviceRing, GpuDecoder, torchcodec_decoder
from food101_fast.loader.order import EpochOrder, rank_slice, steps_per_epoch
from food101_fast.loader.pipeline import Counters, Observer, Pipeline, RepeatedRows, RowSource
from food101_fast.loader.repeat import Repeats, expected_copies
from food101_fast.loader.residence import Residence, ResidentRows, choose_residence, free_host_memory
from food101_fast.loader.state import LoaderState, read_state
from food101_fast.processes import usable_cores
from food101_fast.shards import ShardSet
from food101_fast.shards.split import Verify

_HOST = torch.device("cpu")
# Rows that one thread gathers at a time. A batch of raw rows is ready so soon that dividing it would only cost time. A
# batch of encoded rows takes so long that at an epoch's end one thread would work while the others wait.
_RAW_CHUNK, _ENCODED_CHUNK = 1024, 32


class ShardLoader:
    """Iterates over one split of a folder of shards; one iteration is one epoch.

    All ranks together get every sample once per epoch. With `drop_last`, the default, the samples at the end of the
    epoch's order that do not fill a global batch are left out: different ones in each epoch. The order depends on
    the seed, the epoch, the samples and the window only, so that step 1,000 sees the same images on 1 or 8 ranks at
    the same global batch, which is `batch_size` (per rank) times `world_size`. After a full iteration the next one is
    the next epoch; `set_epoch` chooses another. A loader can't be iterated twice at the same time.

    With `repeat_threshold`, samples of rare classes come several times in an epoch, and some of frequent classes not at
    all; the epoch has as many batches as without it. Pass `batch.draws` to a preset, so that copies differ.

    A loader can be sent to another process (which opens the files itself) and used after a fork; only an iteration
    that was started before a fork can't continue in the child.

    Args:
        path: folder of shards or its URL, or an open ShardSet.

    Every other argument is described at the field of `LoaderConfig` that has its name.

    Attributes:
        config: the arguments.
        shards: the data set.
        split: the split that is loaded.
        batch_size: samples per batch on this rank.
        device: where batches go.
        window: samples that are shuffled together; None for all.
        counters: batches, images, bytes and waiting times since the loader was made.
        residence: where rows are after the first epoch: `stream`, `host` or `device`.
        residence_reason: why, in one line.
        threads: background threads that make batches, without the one that helps in the first epoch.
        observer: is told what the threads do, in every iteration that starts after it is set; None for no observer.

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
        repeat_threshold: float | None = None,
        residence: Residence = "stream",
        verify: Verify = "first-epoch",
        decode: Literal["cpu", "gpu"] = "cpu",
        threads: int | None = None,
        prefetch: int = 4,
    ) -> None:
        self.config = LoaderConfig(
            split=split,
            batch_size=batch_size,
            device=device,
            seed=seed,
            rank=rank,
            world_size=world_size,
            shuffle=shuffle,
            drop_last=drop_last,
            window=window,
            repeat_threshold=repeat_threshold,
            residence=residence,
            verify=verify,
            decode=decode,
            threads=threads,
            prefetch=prefetch,
        )
        self.batch_size = batch_size
        self.device = _usable_device(self.config)
        self.shards = path if isinstance(path, ShardSet) else ShardSet.open(path)
        self.split = self.shards.split(split, verify=verify)
        self.window = int(window) if window is not None and window < len(self.split) else None
        self.counters = Counters()
        self.observer: Observer | None = None
        self.epoch = self._step = self._first_step = self._epochs_whole = 0
        self._check_samples()
        self._repeats: Repeats | None = None
        if repeat_threshold is not None:
            self._repeats = expected_copies(self.split.labels, repeat_threshold)
        self.threads, self._threads_at_first = self._thread_counts()
        self.residence, self.residence_reason = self._choose_residence()
        self._resident: ResidentRows | None = None
        if self.residence != "stream":
            self._resident = ResidentRows(self.split, self.device if self.residence == "device" else _HOST)
        self._pipeline = self._make_pipeline()
        self._check_space()
        if self.window is None and self.split.is_local:
            self.split.open_all()

    def _check_samples(self) -> None:
        if not len(self):
            raise UserError(
                f"split {self.split.name!r} of the shards in {self.shards.folder.url} has {len(self.split)} samples, "
                f"fewer than one batch of {self.global_batch}; use a smaller batch size (--batch-size)"
            )

    def _thread_counts(self) -> tuple[int, int]:
        """Threads for most epochs, and for those in which rows are read for the first time."""
        if self.config.threads is not None:
            return self.config.threads, self.config.threads
        cores = _usable_cores()
        return (1, min(cores, 2)) if self.split.encoding == "raw" else (cores, cores)

    def _choose_residence(self) -> tuple[str, str]:
        asked, split = self.config.residence, self.split
        free_device = torch.cuda.mem_get_info(self.device)[0] if self.device.type == "cuda" else None
        need = len(split) * split.row_bytes
        choice = choose_residence(asked, need, self.device, split.encoding, free_host_memory(), free_device)
        if self.config.decode == "gpu" and choice.residence == "host":
            raise UserError("decode 'gpu' and residence 'host' cannot be combined; use residence 'device' or 'stream'")
        return choice.residence, choice.reason

    def _make_pipeline(self) -> Pipeline:
        split, batch_size = self.split, self.batch_size
        source: RowSource = split if self._resident is None or self.residence == "device" else self._resident
        chunk = _RAW_CHUNK if split.encoding == "raw" else _ENCODED_CHUNK
        ring: Ring
        if self.config.decode == "gpu":
            decoder = GpuDecoder(split, self.device, torchcodec_decoder())
            ring = DeviceRing(split.row_bytes, self.device, decoder.stream)
            source, chunk = decoder, batch_size  # the decoder wants whole batches
        elif self.device.type == "cuda":
            ring = PinnedRing(batch_size, split.row_bytes, self.device, slots=self._threads_at_first + 2)
        else:
            ring = HostRing(batch_size, split.row_bytes)
        if self._repeats is not None:
            source = RepeatedRows(source, len(split))
        return Pipeline(source, ring, ahead=self.config.prefetch, chunk=chunk, counters=self.counters)

    def _check_space(self) -> None:
        """Check that three neighboring windows fit into the cache's limit.

        A batch may need two windows, and the next one is downloaded ahead. The first epoch's windows stand for all.
        """
        if self.split.is_local:
            return
        order = self._order()
        sizes = self.split.shard_bytes
        runs = (range(window, min(window + 3, order.windows)) for window in range(order.windows))
        together = (np.concatenate([order.shards_of(window) for window in run]) for run in runs)
        largest = max(together, key=lambda shards: int(sizes[shards].sum()))
        self.split.files.check_space([self.split.entries[shard] for shard in largest])

    def __reduce__(self) -> tuple[Any, ...]:
        return _remade, (self.shards, self.config, self.epoch, self._step)

    @property
    def global_batch(self) -> int:
        """Samples in one step over all ranks."""
        return self.batch_size * self.config.world_size

    def __len__(self) -> int:
        """Batches in an epoch, the same on every rank."""
        return steps_per_epoch(len(self.split), self.global_batch, drop_last=self.config.drop_last)

    def step_ids(self, epoch: int, step: int) -> NDArray[np.int64]:
        """Ids of all ranks' samples in a step of an epoch, in order, without reading any: int64 (global batch,)."""
        positions = rank_slice(len(self.split), self.global_batch, step, rank=0, world_size=1)
        return self._order(epoch).ids(positions.start, positions.stop)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration, which starts at its first step."""
        self.epoch = epoch
        self._step = self._first_step = 0

    def state_dict(self) -> dict[str, Any]:
        """The loader's position in its order, after any batch; plain numbers and strings, fit for JSON."""
        return asdict(self._state())

    def _state(self) -> LoaderState:
        return LoaderState(
            data=self.shards.manifest.digest,
            split=self.split.name,
            global_batch=int(self.global_batch),
            seed=int(self.config.seed),
            shuffle=self.config.shuffle,
            window=self.window,
            drop_last=self.config.drop_last,
            epoch=self.epoch,
            step=self._step,
            repeat_threshold=None if self.config.repeat_threshold is None else float(self.config.repeat_threshold),
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken: the next iteration starts with the batch after it.

        The number of ranks, threads and the residence may have changed, but not the order: the data, split, global
        batch, seed, window and repeat threshold must be the same.

        Raises:
            UserError: `state` belongs to another order, or is damaged.
        """
        saved = read_state(state, self._state(), len(self))
        self.epoch = saved.epoch
        self._step = self._first_step = saved.step

    def __iter__(self) -> Generator[Batch, None, None]:
        order = self._order()
        steps = range(self._first_step, len(self))
        self._step, self._first_step = self._first_step, 0
        whole = steps.start == 0
        with self.split.files.downloading():
            if self._resident is not None and self._epochs_whole and not self._resident.complete:
                self._resident.fill(self._run, self.batch_size)
            for loaded in self._loaded(order, steps):
                self._step += 1
                self.counters.batches += 1
                self.counters.images += loaded.rows.shape[0]
                self.counters.bytes += loaded.rows.numel()
                self.counters.downloaded_bytes = self.split.files.downloaded
                size = self.split.image_size
                images = loaded.rows.view(-1, size, size, 3).permute(0, 3, 1, 2)
                yield Batch(images, *loaded.numbers)
        self._epochs_whole += whole
        self.epoch, self._step = self.epoch + 1, 0

    def _loaded(self, order: EpochOrder, steps: range) -> Iterator[Loaded]:
        if self.residence == "device" and self._resident is not None and self._resident.complete:
            return self._selected(self._resident, order, steps)
        return self._run(self._ids(order, steps))

    def _run(self, batches: Iterable[NDArray[np.int64]]) -> Iterator[Loaded]:
        """Batches made by the threads; with residence `device` their rows are kept there."""
        # Rows that are read for the first time take longer: their pages are mapped and their checksums compared.
        slow = not self._epochs_whole or self.split.unchecked > len(self.split) // 2
        threads = self._threads_at_first if slow else self.threads
        for ids, loaded in self._pipeline.run(batches, threads, self.observer):
            loaded.wait()
            if self._repeats is not None:
                ids, loaded = ids % len(self.split), self._with_ids(loaded.rows, *loaded.numbers)
            if self.residence == "device" and self._resident is not None:
                self._resident.keep(loaded, ids)
            yield loaded

    def _selected(self, resident: ResidentRows, order: EpochOrder, steps: range) -> Iterator[Loaded]:
        """Batches of rows that are on the device: all ids of the epoch are sent there first, and then nothing."""
        of_steps = list(self._ids(order, steps))
        ids = torch.from_numpy(np.concatenate([np.empty(0, np.int64), *of_steps]))
        if self.device.type == "cuda":
            ids = ids.pin_memory()  # a copy from other memory would wait for all queued work of the device
        ids = ids.to(self.device, non_blocking=True)
        for of_step in torch.split(ids, [step_ids.size for step_ids in of_steps]):
            if self._repeats is None:
                rows, labels = resident.select(of_step)
                yield Loaded(rows, torch.stack([labels, of_step]))
            else:
                rows, labels = resident.select(of_step % len(self.split))
                yield self._with_ids(rows, labels, of_step)

    def _with_ids(self, rows: Tensor, labels: Tensor, draws: Tensor) -> Loaded:
        """A batch whose numbers are labels, ids and draws."""
        return Loaded(rows, torch.stack([labels, draws % len(self.split), draws]))

    def _order(self, epoch: int | None = None) -> EpochOrder:
        return EpochOrder(
            self.split.shard_samples,
            seed=self.config.seed,
            epoch=self.epoch if epoch is None else epoch,
            shuffle=self.config.shuffle,
            window=self.window,
            repeats=self._repeats,
        )

    def _ids(self, order: EpochOrder, steps: range) -> Iterator[NDArray[np.int64]]:
        """This rank's ids of each step, or draws where samples are repeated.

        When a step enters a window, the download of the next one starts.
        """
        resident = self._resident is not None and self._resident.complete
        needs_shards = not resident and (self.window is not None or not self.split.is_local)
        rank, world_size = self.config.rank, self.config.world_size
        entered = -1
        for step in steps:
            positions = rank_slice(len(self.split), self.global_batch, step, rank, world_size)
            last = order.window_at(max(positions.stop - 1, 0))
            if last > entered and needs_shards:
                first = order.window_at(positions.start)
                windows = range(first, min(last + 2, order.windows))
                self.split.prefetch(np.concatenate([order.shards_of(window) for window in windows]))
                entered = last
            yield order.draws(positions.start, positions.stop)


def _usable_device(config: LoaderConfig) -> torch.device:
    device = torch.device(config.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device {str(device)!r}: torch finds no CUDA device here; use device='cpu'")
    if config.decode == "gpu" and device.type != "cuda":
        raise UserError(f"decode 'gpu' needs a CUDA device, and batches go to {device}; use decode 'cpu'")
    return device


def _usable_cores() -> int:
    """Cores for this process: those it may run on, shared with the other ranks on this machine."""
    return max(usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)


def _remade(shards: ShardSet, config: LoaderConfig, epoch: int, step: int) -> ShardLoader:
    loader = ShardLoader(shards, **config.arguments())
    loader.load_state_dict(loader.state_dict() | {"epoch": epoch, "step": step})
    return loader
