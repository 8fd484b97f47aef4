"""How a data set was split, in words: what its results may be compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from food101_fast.shards.layout import SOURCE_PREFIX
from food101_fast.shards.manifest import Duplicates, Manifest
from food101_fast.shards.rejects import DUPLICATE, LABEL_CONFLICT

_MOST_NAMED = 10


@dataclass(frozen=True, kw_only=True)
class SplitOrigin:
    """Where the images of the splits come from: it decides which results may be compared."""

    given: Mapping[str, str]
    """What each split of the source became, by its name there; empty where all images were split anew."""
    mixed: Mapping[str, Mapping[str, int]]
    """Images of each split of the source in each split, where the source's splits were joined and split anew."""
    duplicates: Duplicates
    """What became of identical files."""
    dropped: int
    """Identical files that were dropped."""
    overlaid: tuple[str, ...] = ()
    """Splits that overlays change."""


def split_origin(manifest: Manifest) -> SplitOrigin:
    """Where the images of the splits come from."""
    copies = (manifest.rejects.get(reason, 0) for reason in (DUPLICATE, LABEL_CONFLICT))
    is_indexed = manifest.source.startswith(SOURCE_PREFIX)
    return SplitOrigin(
        given={name: name for name in manifest.splits} if is_indexed else manifest.given_splits,
        mixed=manifest.mixed_splits,
        duplicates=manifest.duplicates,
        dropped=sum(copies),
        overlaid=manifest.overlaid_splits,
    )


def protocol(manifest: Manifest) -> str:
    """Where the splits come from, such as `stratified 0.8 / 0.1 / 0.1, seed 0`, and whether overlays change them."""
    overlays = len(manifest.overlays)
    changed = f"; changed by {overlays} overlay{'s' if overlays > 1 else ''}" if overlays else ""
    return f"{_splits(manifest)}{changed}"


def _splits(manifest: Manifest) -> str:
    if manifest.source.startswith(SOURCE_PREFIX):
        is_cut = manifest.split_by == "source" and manifest.val_fraction > 0
        of_train = f"; val is {manifest.val_fraction:g} of train, seed {manifest.seed}" if is_cut else ""
        return f"splits as the tars have them{of_train}"
    groups = f", no group ({manifest.group_by}) in two splits" if manifest.group_by is not None else ""
    if manifest.split_by == "stratified":
        return f"stratified {' / '.join(f'{share:g}' for share in manifest.fractions)}, seed {manifest.seed}{groups}"
    given = ", ".join(name if name == split else f"{name} as {split}" for name, split in manifest.given_splits.items())
    shares = {"val": manifest.val_fraction, "test": manifest.test_fraction}
    cut = [
        f"{name} is {share:g} of train"
        for name, share in shares.items()
        if name in manifest.splits and name not in manifest.given_splits.values()
    ]
    seed = f", seed {manifest.seed}" if cut else ""
    return f"splits of the source ({given}){''.join(f'; {each}' for each in cut)}{seed}{groups}"


def remarks(manifest: Manifest) -> list[str]:
    """What a user should know about classes and shares: lines of text, none if nothing is unusual."""
    lines = []
    if manifest.left_out:
        named = _listed([f"{name} {count:,}" for name, count in manifest.left_out.items()])
        lines.append(f"left out {_count(len(manifest.left_out), 'class')} (images each): {named}")
    if dropped := [name for name, split in manifest.given_splits.items() if split == "drop"]:
        lines.append(f"left out the images of {', '.join(dropped)}, as --map-splits says")
    for name, split in manifest.splits.items():
        missing = [manifest.classes[label] for label in np.flatnonzero(np.array(split.class_counts) == 0).tolist()]
        if missing:
            lines.append(f"{name} has no image of {_count(len(missing), 'class')}: {_listed(missing)}")
    if manifest.group_by is not None and manifest.split_by == "stratified":
        written = sum(split.samples for split in manifest.splits.values())
        asked = dict(zip(("train", "val", "test"), manifest.fractions, strict=True))
        shares = [f"{name} {split.samples / written:.3f} ({asked[name]:g})" for name, split in manifest.splits.items()]
        lines.append(f"shares with whole groups, and what was asked for: {', '.join(shares)}")
    return lines


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}es"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"{', '.join(names[:_MOST_NAMED])}{more}"
