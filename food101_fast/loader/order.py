"""The order of an epoch: a pure function of (seed, epoch, samples). Threads and ranks only execute it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def epoch_order(samples: int, *, seed: int, epoch: int, shuffle: bool) -> NDArray[np.int64]:
    """Every sample id once: int64 (samples,), a permutation that differs from epoch to epoch, or ascending."""
    if not shuffle:
        return np.arange(samples)
    return np.random.default_rng((seed, epoch)).permutation(samples)


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
