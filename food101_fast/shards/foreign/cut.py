"""A val split out of train, for data sets that have none: stratified by class, and the same for the same tars."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from food101_fast.errors import UserError


def cut_val(labels: NDArray[np.int64], digests: NDArray[np.uint64], *, fraction: float, seed: int) -> NDArray[np.bool_]:
    """Choose the samples of val among those of train.

    Identical files stay together, so that none is in both splits. A class with only one image stays in train.

    Args:
        labels: (N,) class number of each sample.
        digests: (N,) hash of each image's file.
        fraction: share of val, above 0 and below 1.
        seed: another seed chooses others.

    Returns:
        (N,) bool, whether a sample is in val. Each class has its share, within one image if no files are identical.

    Raises:
        UserError: no class has two images.
    """
    random = np.random.default_rng(seed)
    files, file_of = np.unique(digests, return_inverse=True)
    copies = np.bincount(file_of, minlength=files.size)
    # A file with several labels counts for the class of its first copy.
    first = np.full(files.size, labels.size)
    np.minimum.at(first, file_of, np.arange(labels.size))
    classes = labels[first]
    # In the order of the tars: the order of hashes would change with any image.
    shuffled = np.argsort(first)[random.permutation(files.size)]
    chosen = np.zeros(files.size, np.bool_)
    for label in np.unique(classes):
        of_class = shuffled[classes[shuffled] == label]
        total = int(copies[of_class].sum())
        room = min(max(1, round(fraction * total)), total - 1)
        for file in of_class:
            if copies[file] <= room:
                chosen[file] = True
                room -= copies[file]
    if not chosen.any():
        raise UserError("--val-fraction found no class with two images, so val would be empty; add images")
    return chosen[file_of]
