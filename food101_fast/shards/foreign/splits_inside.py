"""Tars with the folders of several splits inside: as one split, they would mix the images of val into train."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

from food101_fast.shards.foreign.samples import Sample
from food101_fast.shards.layout import split_of_name


def splits_inside(samples: Sequence[Sample]) -> str | None:
    """What is wrong with a tar whose samples are in folders of two or more splits, such as train/ and val/.

    Only folders beside each other count, and of class folders only those above them.
    """
    of_parent: dict[str, dict[str, str]] = {}
    folders = dict.fromkeys(_folder(sample) for sample in samples)
    for folder in folders:
        while folder:
            folder, name = posixpath.split(folder)
            split = split_of_name(name)
            if split is not None:
                of_parent.setdefault(folder, {}).setdefault(split, name)
    for names in of_parent.values():
        if len(names) > 1:
            listed = " and ".join(f"{name}/" for name in names.values())
            return f"has folders of several splits inside ({listed}); unpack it, or make a tar for each split"
    return None


def _folder(sample: Sample) -> str:
    """The folder of a sample, or the one above it if that is its class."""
    folder = posixpath.dirname(posixpath.normpath(sample.image.name)).strip("/")
    return folder if sample.folder is None else posixpath.dirname(folder)
