"""The splits and groups that a source has itself, and what becomes of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from food101_fast.errors import UserError
from food101_fast.prepare.settings import PrepareSettings, pairs
from food101_fast.prepare.sources import GivenSplits, Source
from food101_fast.shards.layout import SPLITS, split_of_name

NO_SPLIT = "no-split"
"""Reason of a reject that the source has in none of its splits."""
DROP: Literal["drop"] = "drop"
"""What `--map-splits` says of a split that is not used."""


@dataclass(frozen=True, kw_only=True)
class KeptSplits:
    """The splits of a source under the names that they have here."""

    becomes: Mapping[str, str]
    """Split, or `DROP`, by its name in the source."""
    numbers: NDArray[np.int64]
    """(N,) split of each file, an index into `SPLITS`; -1 for a file in no split, -2 for one of a dropped split."""


def keep_splits(source: Source, settings: PrepareSettings) -> KeptSplits | None:
    """What `--splits source` makes of the splits of a source; None for `--splits stratified`.

    Raises:
        UserError: the source has no splits, or their names do not say what they are.
    """
    if settings.splits != "source":
        return None
    if source.splits is None and source.column_names:
        raise UserError(
            f"no column of --source {settings.source} is known to be the split (it has "
            f"{', '.join(source.column_names)}); choose one with --columns split=NAME, or leave --splits source out"
        )
    if source.splits is None:
        raise UserError(
            f"--source {settings.source} has no splits of its own; leave --splits source out, and prepare makes them"
        )
    becomes = _becomes(source.splits, settings)
    for split, flag in (("val", "val_fraction"), ("test", "test_fraction")):
        if split in becomes.values() and getattr(settings, flag) != getattr(type(settings), flag):
            raise UserError(
                f"--{flag.replace('_', '-')} is for a source without {split}, and {settings.source} has one; leave it "
                "out, or drop that split with --map-splits"
            )
    number_of = [SPLITS.index(becomes[name]) if becomes[name] != DROP else -2 for name in source.splits.names]
    return KeptSplits(becomes=becomes, numbers=np.array([*number_of, -1], np.int64)[source.splits.numbers])


def _becomes(splits: GivenSplits, settings: PrepareSettings) -> dict[str, str]:
    names, source = splits.names, settings.source
    wanted = pairs("--map-splits", settings.map_splits)
    for name, split in wanted.items():
        if name not in names or split not in (*SPLITS, DROP):
            raise UserError(
                f"--map-splits {name}={split} should name a split of {source} ({', '.join(names)}) and train, val, "
                "test or drop"
            )
    becomes = {name: wanted.get(name) or split_of_name(name) for name in names}
    if unclear := [name for name, split in becomes.items() if split is None]:
        raise UserError(
            f"the splits of {source} are {', '.join(names)}; say with --map-splits {unclear[0]}=train, val, test or "
            f"drop what {unclear[0]} is"
        )
    clear = {name: split for name, split in becomes.items() if split is not None}
    used = {split for split in clear.values() if split != DROP}
    if "train" not in used:
        raise UserError(f"the splits of {source} are {', '.join(names)}, and none is train; say it with --map-splits")
    val_is_said = any(split == "val" and name in wanted for name, split in clear.items())
    if used == {"train", "val"} and not val_is_said and not settings.test_fraction:
        # The only split beside train is the one that published results are measured on. Choosing the best epoch on it
        # would make them too good, so it is test, and val is cut from train.
        clear = {name: "test" if split == "val" else split for name, split in clear.items()}
    for split in ("val", "test"):
        same = [name for name, of_name in clear.items() if of_name == split]
        if len(same) > 1 and not set(same) <= set(wanted):
            raise UserError(
                f"the splits {' and '.join(same)} of {source} would both be {split}; say with --map-splits what they "
                f"are, such as {same[1]}=drop"
            )
    return clear


def mixed_splits(source: Source, settings: PrepareSettings) -> GivenSplits | None:
    """The source's own splits, if `settings` join several of them and split all images anew."""
    own = source.splits
    return own if settings.splits != "source" and own is not None and len(own.names) > 1 else None


def groups_of(source: Source, group_by: str | None) -> NDArray[np.int64] | None:
    """(N,) number of the group of each file; None without `--group-by`.

    Raises:
        UserError: the pattern is wrong, or files are in no group.
    """
    if group_by is None:
        return None
    values = source.column(group_by)
    is_column = values is not None
    if values is None:
        values = _searched(source, group_by)
    missing = [position for position, value in enumerate(values) if value is None]
    if missing and is_column:
        raise UserError(
            f"the column {group_by} of --group-by is empty for {len(missing)} of {len(values)} files, such as "
            f"{source.file(missing[0])}; fill it in: a file that belongs to no group gets a value of its own"
        )
    if missing:
        has = f"; the columns are {', '.join(source.column_names)}" if source.column_names else ""
        raise UserError(
            f"--group-by {group_by} finds no group for {len(missing)} of {len(values)} files, such as "
            f"{source.file(missing[0])}; give a column, or a regular expression that matches every file name{has}"
        )
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], np.int64)


def _searched(source: Source, pattern: str) -> list[str | None]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--group-by {pattern} is not a regular expression ({error}), nor a column") from error
    found = (expression.search(source.file(position)) for position in range(source.labels.size))
    return [None if match is None else next(filter(None, match.groups()), match[0]) for match in found]
