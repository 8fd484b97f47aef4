"""Repeat factors: samples of rare classes come more often in an epoch, those of frequent classes less often.

Source: A. Gupta, P. Dollár, R. Girshick, "LVIS: A Dataset for Large Vocabulary Instance Segmentation", CVPR 2019,
section 5: a class with the share f of all samples gets the factor max(1, sqrt(t / f)).

An epoch still has as many samples as the split. So steps, schedule and time stay those of a plain epoch, and two
choices of class balance that are trained equally long are compared at equal cost. A factor is therefore divided by the
mean over all samples: the result is the expected number of copies of a sample in an epoch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_WORD_BITS = 62  # of a sum over all samples: an int64 without its sign and one more, for the offset
_MARGIN = 2.0**-44  # above the relative error of the sum in floating point, so that `missing` is not negative


def repeat_factors(counts: NDArray[np.int64], threshold: float) -> NDArray[np.float64]:
    """The factor of each class, at least 1: float64 (classes,).

    Args:
        counts: (classes,) samples of each class.
        threshold: t, the share of all samples below which a class is repeated.
    """
    share = np.maximum(counts, 1) / max(int(counts.sum()), 1)
    return np.maximum(1.0, np.sqrt(threshold / share))


def copies_of_classes(counts: NDArray[np.int64], threshold: float) -> NDArray[np.float64]:
    """How often an image of each class comes in an epoch on average, float64 (classes,). Arguments as above."""
    factors = repeat_factors(counts, threshold)
    mean: NDArray[np.float64] = factors * (counts.sum() / (factors * counts).sum())
    return mean


@dataclass(frozen=True, eq=False)
class Repeats:
    """The expected number of copies of each sample, in fixed point so that sums are exact."""

    copies: NDArray[np.int64]
    """(N,), in units of 2 ** -bits. They add up to N, but for `missing`."""
    bits: int
    missing: int
    """What rounding down took from the sum, in the same units: too little to be one copy of one sample."""


def expected_copies(labels: NDArray[np.int64], threshold: float) -> Repeats:
    """The expected number of copies of each sample in an epoch of as many samples as there are.

    Args:
        labels: (N,), at least one.
        threshold: see `repeat_factors`.
    """
    counts = np.bincount(labels)
    bits = _WORD_BITS - int(labels.size).bit_length()
    of_class = np.floor(copies_of_classes(counts, threshold) * (1 - _MARGIN) * 2.0**bits).astype(np.int64)
    whole = sum(int(copies) * int(count) for copies, count in zip(of_class, counts, strict=True))
    return Repeats(copies=of_class[labels], bits=bits, missing=(labels.size << bits) - whole)
