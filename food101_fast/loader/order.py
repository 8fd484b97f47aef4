"""The order of an epoch: a pure function of (seed, epoch, samples, window). Threads, ranks and memory do not change it.

By default an epoch is one permutation of all samples. With a smaller window the shards are shuffled first; that
sequence is cut into windows of at most so many samples, and the samples are permuted inside each window. So only one
window's shards and list of ids are needed at a time, whatever the number of samples.

With repeat factors the epoch has as many positions, but some samples come several times and some not at all. Along the
plain order the expected copies of the samples are added up, from a random fraction on; a sample comes once for each
whole number that the sum passes (systematic sampling: W. G. Madow and L. H. Madow, "On the theory of systematic
sampling, I", Ann. Math. Stat. 15, 1944). So a sample that is expected 1.3 times comes once or twice, on average exactly
1.3 times, and the length of the epoch is always the same. The copies of a window are then shuffled.

A permutation is the argsort of raw PCG64 output: NumPy promises to keep the stream of its bit generators forever, but
may change `Generator.permutation` (NEP 19).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from food101_fast.loader.repeat import Repeats

# Keys of the random streams of an epoch.
_SHARDS, _FIRST_WINDOW = 0, 1
# Added to a key for the streams of repeat factors. PCG64 takes a key that ends with 0 for the same without it.
_REPEATS = 1


def permutation(count: int, *key: int) -> NDArray[np.int64]:
    """The numbers below `count` in an order that depends on `key`: int64 (count,)."""
    return np.argsort(np.random.PCG64(key).random_raw(count), kind="stable")


class EpochOrder:
    """The sequence of sample ids of one epoch, computed one window at a time when it is needed.

    Args:
        shard_samples: int64 (S,), number of samples of each shard; ids count through the shards in this order.
        seed: decides the order, together with the epoch.
        epoch: decides the order, together with the seed.
        shuffle: whether to permute; without it ids ascend and every shard is a window.
        window: largest number of samples that are shuffled together; None for all. A shard is never cut: a window that
            is smaller than a shard contains one shard.
        repeats: how often each sample is expected; None for once. Needs `shuffle`.
    """

    def __init__(
        self,
        shard_samples: NDArray[np.int64],
        *,
        seed: int,
        epoch: int,
        shuffle: bool,
        window: int | None = None,
        repeats: Repeats | None = None,
    ) -> None:
        self.samples = int(shard_samples.sum())
        self._sizes = shard_samples
        self._first_ids = np.cumsum(shard_samples) - shard_samples
        self._key = (seed, epoch)
        self._permuted = shuffle
        self._repeats = repeats
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
        # The first position of each window in the epoch; the last entry is the epoch's length.
        self._starts: NDArray[np.int64] = _ends(shard_samples[self._sequence])[self._bounds]
        if repeats is not None:
            # The sum of expected copies before each window, with the random fraction that it starts from.
            of_shards = np.add.reduceat(repeats.copies, self._first_ids)
            offset = np.random.PCG64((*self._key, _SHARDS, _REPEATS)).random_raw() >> (64 - repeats.bits)
            self._sums = _ends(of_shards[self._sequence])[self._bounds] + repeats.missing + offset
            self._starts = np.concatenate([[0], self._sums[1:] >> repeats.bits])
        self._recent: dict[int, NDArray[np.int64]] = {}

    @property
    def windows(self) -> int:
        """How many windows the epoch has."""
        return len(self._bounds) - 1

    def ids(self, start: int, stop: int) -> NDArray[np.int64]:
        """Ids at the positions `start` to `stop - 1` of the epoch: int64 (stop - start,)."""
        return self.draws(start, stop) % self.samples if self._repeats is not None else self.draws(start, stop)

    def draws(self, start: int, stop: int) -> NDArray[np.int64]:
        """Numbers that differ for all copies at these positions: the id, plus `samples` for each earlier copy.

        "Earlier" counts the copies of a sample in the epoch, not their positions.

        Returns:
            int64 (stop - start,); the remainder by `samples` is the id.
        """
        if start >= stop:
            return np.empty(0, np.int64)
        pieces = []
        for window in range(self.window_at(start), self.window_at(stop - 1) + 1):
            first = self._starts[window]
            # NumPy cuts a slice at the array's end.
            pieces.append(self._ids_of(window)[max(start - first, 0) : stop - first])
        return np.concatenate(pieces)

    def window_at(self, position: int) -> int:
        """Index of the window that contains a position of the epoch."""
        return int(np.searchsorted(self._starts, position, side="right")) - 1

    def shards_of(self, window: int) -> NDArray[np.int64]:
        """The shards that contain a window's samples: int64 (shards of the window,)."""
        return self._sequence[self._bounds[window] : self._bounds[window + 1]]

    def _ids_of(self, window: int) -> NDArray[np.int64]:
        if window not in self._recent:
            while len(self._recent) > 1:  # a batch may need samples of two windows
                del self._recent[min(self._recent)]
            self._recent[window] = self._window_ids(window)
        return self._recent[window]

    def _window_ids(self, window: int) -> NDArray[np.int64]:
        shards = self.shards_of(window)
        sizes = self._sizes[shards]
        # Ascending within each shard: its first id, minus the samples before it in the window, plus the position.
        ids = np.repeat(self._first_ids[shards] - (np.cumsum(sizes) - sizes), sizes) + np.arange(sizes.sum())
        if not self._permuted:
            return ids
        ids = ids[permutation(ids.size, *self._key, _FIRST_WINDOW + window)]
        return ids if self._repeats is None else self._repeated(ids, self._repeats, window)

    def _repeated(self, ids: NDArray[np.int64], repeats: Repeats, window: int) -> NDArray[np.int64]:
        """The copies of a window's samples, shuffled: numbers as `draws` returns them."""
        passed = (self._sums[window] + np.cumsum(repeats.copies[ids])) >> repeats.bits
        counts = np.diff(passed, prepend=self._starts[window])
        before = np.cumsum(counts) - counts
        copy = np.arange(counts.sum()) - np.repeat(before, counts)
        copies: NDArray[np.int64] = np.repeat(ids, counts) + copy * self.samples
        return copies[permutation(copies.size, *self._key, _FIRST_WINDOW + window, _REPEATS)]


def _ends(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cumulative sums, from 0 on."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])


def _cut(sizes: NDArray[np.int64], window: int) -> NDArray[np.int64]:
    """Bounds of the longest runs of `sizes` that sum to at most `window`; a larger shard is a run of its own."""
    ends = np.cumsum(sizes)
    bounds = [0]
    while bounds[-1] < len(sizes):
        before = ends[bounds[-1] - 1] if bounds[-1] else 0
        bounds.append(max(int(np.searchsorted(ends, before + window, side="right")), bounds[-1] + 1))
    return np.array(bounds)


def steps_per_epoch(samples: int, global_batch: int, *, drop_last: bool) -> int:
    """Batches in an epoch; without `drop_last` the last one may be smaller."""
    return samples // global_batch if drop_last else -(-samples // global_batch)


def rank_slice(samples: int, global_batch: int, step: int, rank: int, world_size: int) -> slice:
    """The positions in the epoch's order that `rank` takes in `step`.

    A step takes the next `global_batch` positions, and the ranks divide them into contiguous slices. In a last, smaller
    batch the slices differ in length by at most one, and may be empty.
    """
    start = step * global_batch
    count = min(global_batch, samples - start)
    return slice(start + rank * count // world_size, start + (rank + 1) * count // world_size)
