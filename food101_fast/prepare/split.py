"""Which image goes to which split: stratified by class, and decided before any image is decoded.

This makes a shard a pure function of the source and the settings: workers share nothing, and a damaged file shortens
its own shard by one and moves no other image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from food101_fast.errors import UserError
from food101_fast.shards.layout import SPLITS


def check_fractions(fractions: Sequence[float]) -> None:
    """Refuse fractions that are not three shares of 1, the first above 0."""
    if len(fractions) != len(SPLITS) or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6 or fractions[0] == 0:
        raise UserError(
            f"--fractions {' '.join(map(str, fractions))} should be three numbers for train, val and test, "
            "not negative, that add up to 1, the first above 0"
        )


def check_counts(
    labels: NDArray[np.int64], classes: Sequence[str], fractions: Sequence[float], *, dropped: int = 0
) -> None:
    """Refuse a class that has too few images for one of the splits; `dropped` duplicates are already left out."""
    shares = [share for share in fractions if share > 0]
    needed = int(np.ceil(1 / min(shares) - 1e-9))
    counts = np.bincount(labels, minlength=len(classes))
    if counts.min() < needed:
        without = f" without the {dropped} duplicates (which --duplicates keep would keep)" if dropped else ""
        raise UserError(
            f"too few images of class {classes[int(counts.argmin())]!r}: {counts.min()}{without}, and at least "
            f"{needed} are needed to split {' / '.join(f'{share:g}' for share in shares)}; add images, remove the "
            "class, or change --fractions or --limit"
        )


def stratified_split(
    labels: NDArray[np.int64], classes: Sequence[str], fractions: tuple[float, float, float], seed: int
) -> dict[str, NDArray[np.int64]]:
    """Split samples so that every class has its share of each split, within one image.

    Args:
        labels: (N,) label of each sample.
        classes: class names, for the error message.
        fractions: shares of train, val and test, checked by `check_fractions`; a split with share 0 is left out.
        seed: another seed gives another split.

    Returns:
        int64 positions in `labels` of the samples of each split, shuffled; every position is in exactly one split.

    Raises:
        UserError: a class has too few images for one of the splits.
    """
    from sklearn.model_selection import train_test_split  # here, since it takes seconds to import

    check_counts(labels, classes, fractions)
    shares = {name: share for name, share in zip(SPLITS, fractions, strict=True) if share > 0}
    remaining = np.arange(labels.size)
    splits: dict[str, NDArray[np.int64]] = {}
    left = 1.0
    for name, share in list(shares.items())[:-1]:
        splits[name], remaining = train_test_split(
            remaining, train_size=share / left, stratify=labels[remaining], random_state=seed
        )
        left -= share
    splits[list(shares)[-1]] = np.random.default_rng(seed).permutation(remaining)
    return splits


def stratified_subset(labels: NDArray[np.int64], limit: int, seed: int) -> NDArray[np.int64]:
    """Ascending int64 positions of `limit` samples, with every class in proportion."""
    if limit >= labels.size:
        return np.arange(labels.size)
    if limit < np.unique(labels).size:
        raise UserError(f"--limit {limit} is less than one image for each of the {np.unique(labels).size} classes")
    classes, counts = np.unique(labels, return_counts=True)
    quota = counts * limit / labels.size
    take = np.floor(quota).astype(np.int64)
    take[np.argsort(take - quota, kind="stable")[: limit - take.sum()]] += 1
    rng = np.random.default_rng(seed)
    chosen = [
        rng.choice(np.flatnonzero(labels == label), count, replace=False)
        for label, count in zip(classes, take, strict=True)
    ]
    return np.sort(np.concatenate(chosen))
