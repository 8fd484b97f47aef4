"""Which image goes to which split: stratified by class, and decided before any image is decoded.

This makes a shard a pure function of the source and the settings: workers share nothing, and a damaged file shortens
its own shard by one and moves no other image.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence

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


def needed_images(shares: Sequence[float]) -> int:
    """How many images of a class give at least one to each split, with shares that are above 0 and add up to 1."""
    return int(np.ceil(1 / min(shares) - 1e-9))


def stratified_split(labels: NDArray[np.int64], shares: Mapping[str, float], seed: int) -> dict[str, NDArray[np.int64]]:
    """Split samples so that every class has its share of each split, within one image.

    Args:
        labels: (N,) label of each sample; `needed_images` of each class at least.
        shares: share of each split, above 0; they add up to 1.
        seed: another seed gives another split.

    Returns:
        int64 positions in `labels` of the samples of each split, shuffled; every position is in exactly one split.
    """
    from sklearn.model_selection import train_test_split  # here, since it takes seconds to import

    remaining = np.arange(labels.size)
    splits: dict[str, NDArray[np.int64]] = {}
    left = 1.0
    for name, share in list(shares.items())[:-1]:
        size = math.floor(share / left * remaining.size + 1e-6)  # not one less where a third of 900 is 299.99...
        splits[name], remaining = train_test_split(
            remaining, train_size=size, stratify=labels[remaining], random_state=seed
        )
        left -= share
    splits[list(shares)[-1]] = np.random.default_rng(seed).permutation(remaining)
    return splits


def grouped_split(
    labels: NDArray[np.int64], groups: NDArray[np.int64], shares: Mapping[str, float], seed: int
) -> dict[str, NDArray[np.int64]]:
    """Split samples so that no group is in two splits, and every class has about its share of each split.

    The samples are cut into folds by scikit-learn's `StratifiedGroupKFold`, and each split gets its share of them.

    Args:
        labels: (N,) label of each sample.
        groups: (N,) number of the group of each sample.
        shares: share of each split, above 0, the largest first; they add up to 1.
        seed: another seed gives another split.

    Returns:
        int64 positions in `labels` of the samples of each split, shuffled; every position is in exactly one split.

    Raises:
        UserError: there are fewer groups, or images of the largest class, than splits.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    found = np.unique(groups).size
    if found < len(shares):
        raise UserError(f"--group-by finds {found} groups for {len(shares)} splits; give a finer pattern or column")
    if len(shares) == 1:
        return {next(iter(shares)): np.random.default_rng(seed).permutation(labels.size)}
    count = min(found, needed_images(list(shares.values())), int(np.bincount(labels).max()))
    if count < len(shares):
        raise UserError(f"no class has an image for each of the {len(shares)} splits; add images")
    folder = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    with warnings.catch_warnings():  # of classes with fewer images than folds, which prepare names itself
        warnings.simplefilter("ignore", UserWarning)
        folds = [held_out for _, held_out in folder.split(labels, labels, groups)]
    splits: dict[str, NDArray[np.int64]] = {}
    for name, share in list(shares.items())[1:]:
        taken = max(1, round(share * len(folds)))
        splits[name] = np.concatenate([folds.pop() for _ in range(min(taken, len(folds) - 1))])
    splits[next(iter(shares))] = np.concatenate(folds)
    rng = np.random.default_rng(seed)
    return {name: rng.permutation(splits[name]) for name in shares}


def stratified_subset(labels: NDArray[np.int64], limit: int, seed: int) -> NDArray[np.int64]:
    """Ascending int64 positions of `limit` samples, with every class in proportion."""
    if limit >= labels.size:
        return np.arange(labels.size)
    if limit < np.unique(labels).size:
        raise UserError(
            f"--limit {limit} is less than one image for each of the {np.unique(labels).size} classes; give more"
        )
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
