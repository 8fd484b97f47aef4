"""The order of an epoch: a pure function of (seed, epoch, samples, window). Threads, ranks and memory only execute it.

With the default window, all samples, an epoch is one permutation of everything. A smaller window first shuffles the
shards, cuts that sequence into windows of so many samples, and permutes the samples inside each window. So no more
than a window's shards and a window's list of ids are needed at a time, however many samples there are.

Permutations are the sorting order of raw PCG64 output, since NumPy guarantees the stream of its bit generators for all
time, and that of `Generator.permutation` only until it is improved (NEP 19).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# What the random streams of an epoch are for.
_SHARDS, _FIRST_WINDOW = 0, 1


def permutation(count: int, *key: int) -> NDArray[np.int64]:
    """The numbers below `count` in an order that depends on `key`: int64 (count,)."""
    return np.argsort(np.random.PCG64(key).random_raw(count), kind="stable")


class EpochOrder:
    """The sequence of sample ids of one epoch, computed a window at a time where it is asked for.

    Args:
        shard_samples: (S,) number of samples of each shard; ids count through the shards in this order.
        seed: another seed gives other orders.
        epoch: another epoch gives another order, if there is shuffling.
        shuffle: whether to permute; without it ids ascend and every shard is a window of its own.
        window: samples that are shuffled among each other, at the most; None for all. A shard is never cut, so that
            a window smaller than a shard is one shard.
    """

    def __init__(
        self, shard_samples: NDArray[np.int64], *, seed: int, epoch: int, shuffle: bool, window: int | None = None
    ) -> None:
        self.samples = int(shard_samples.sum())
        self._sizes = shard_samples
        self._first_ids = np.cumsum(shard_samples) - shard_samples
        self._key = (seed, epoch)
        self._permuted = shuffle
        shards = len(shard_samples)
        if not shuffle:
            self._sequence = np.arange(shards)
            self._bounds = np.arange(shards + 1)
        elif window is None or window >= self.samples:
            self._sequence = np.arange(shards)
            self._bounds = np.array([0, shards])
        else:
            self._sequence = permutation(shards, *self._key, _SHARDS)
            self._bounds = _cut(shard_samples[self._sequence], window)
        ends = np.concatenate([[0], np.cumsum(shard_samples[self._sequence])])
        # Where each window begins in the epoch; the last entry is the epoch's end.
        self._starts: NDArray[np.int64] = ends[self._bounds]
        self._recent: dict[int, NDArray[np.int64]] = {}

    @property
    def windows(self) -> int:
        """How many windows the epoch has."""
        return len(self._bounds) - 1

    def ids(self, start: int, stop: int) -> NDArray[np.int64]:
        """The epoch's ids from place `start` to before `stop`: int64."""
        if start >= stop:
            return np.empty(0, np.int64)
        first, last = self.window_at(start), self.window_at(stop - 1)
        parts = []
        for window in range(first, last + 1):
            begun = self._starts[window]
            parts.append(
                self._ids_of(window)[max(start - begun, 0) : stop - begun]
            )  # a slice ends where its array does
        return np.concatenate(parts)

    def window_at(self, place: int) -> int:
        """The window that the epoch's sample number `place` belongs to."""
        return int(np.searchsorted(self._starts, place, side="right")) - 1

    def shards_of(self, window: int) -> NDArray[np.int64]:
        """The shards that a window's samples lie in."""
        return self._sequence[self._bounds[window] : self._bounds[window + 1]]

    def _ids_of(self, window: int) -> NDArray[np.int64]:
        if window not in self._recent:
            while len(self._recent) > 1:  # a batch may lie across two windows
                del self._recent[min(self._recent)]
            self._recent[window] = self._window_ids(window)
        return self._recent[window]

    def _window_ids(self, window: int) -> NDArray[np.int64]:
        shards = self.shards_of(window)
        sizes = self._sizes[shards]
        # Ascending within each shard: a shard's first id, minus what came before it in the window, plus the place.
        ids = np.repeat(self._first_ids[shards] - (np.cumsum(sizes) - sizes), sizes) + np.arange(sizes.sum())
        return ids[permutation(ids.size, *self._key, _FIRST_WINDOW + window)] if self._permuted else ids


def _cut(sizes: NDArray[np.int64], window: int) -> NDArray[np.int64]:
    """Bounds of runs of `sizes` that sum to at most `window`, or are a single shard; as long as they can be."""
    ends = np.cumsum(sizes)
    bounds = [0]
    while bounds[-1] < len(sizes):
        begun = ends[bounds[-1] - 1] if bounds[-1] else 0
        bounds.append(max(int(np.searchsorted(ends, begun + window, side="right")), bounds[-1] + 1))
    return np.array(bounds)


def steps_per_epoch(samples: int, global_batch: int, *, drop_last: bool) -> int:
    """Batches in an epoch; without `drop_last` the last one may be smaller."""
    return samples // global_batch if drop_last else -(-samples // global_batch)


def rank_slice(samples: int, global_batch: int, step: int, rank: int, world_size: int) -> slice:
    """The part of the epoch's order that `rank` takes in `step`.

    Step s takes the next `global_batch` ids and rank r its contiguous part of them. In a last, smaller batch the parts
    differ by one at most, and may be empty.
    """
    start = step * global_batch
    count = min(global_batch, samples - start)
    return slice(start + rank * count // world_size, start + (rank + 1) * count // world_size)
