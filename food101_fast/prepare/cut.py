"""Which image goes to which split, by the settings: all images split, or the source's splits kept and val cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from food101_fast.errors import UserError
from food101_fast.prepare.given import KeptSplits
from food101_fast.prepare.selection import refuse_short
from food101_fast.prepare.settings import PrepareSettings
from food101_fast.prepare.split import grouped_split, needed_images, stratified_split
from food101_fast.shards.layout import SPLITS

_TRAIN = SPLITS.index("train")


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Decides the split of each file of a source. Files are given by their positions in it."""

    classes: Sequence[str]
    labels: NDArray[np.int64]
    """(N,) label of each file."""
    given: KeptSplits | None
    """The source's own splits; None to split everything."""
    groups: NDArray[np.int64] | None
    """(N,) group of each file."""
    settings: PrepareSettings
    file: Callable[[int], str]
    """The name of a file in the source, by its position, for errors."""

    @property
    def shares(self) -> dict[str, float]:
        """Share of each split in what is cut, without those of 0, train first."""
        if self.given is None:
            shares = dict(zip(SPLITS, self.settings.fractions, strict=True))
        else:
            missing = set(SPLITS) - set(self.given.becomes.values())
            val = self.settings.val_fraction if "val" in missing else 0.0
            test = self.settings.test_fraction if "test" in missing else 0.0
            shares = {"train": 1 - val - test, "val": val, "test": test}
        return {name: share for name, share in shares.items() if share > 0}

    def usable(self, positions: NDArray[np.int64], used: NDArray[np.bool_], dropped: int = 0) -> NDArray[np.bool_]:
        """The classes that are left after those with too few images are treated as `--rare` says.

        Args:
            positions: (n,) int64, files of the classes in `used`.
            used: (C,) whether each class is used.
            dropped: duplicates that are not in `positions`, for the error.

        Raises:
            UserError: `--rare refuse` and a class has too few images, or no image to train on.
        """
        counts = self._counts(positions)
        short = used & (counts < self._needed)
        shares = " / ".join(f"{share:g}" for share in self.shares.values())
        if self.settings.rare == "refuse":
            self._refuse(short, counts, shares, dropped)
        if self.settings.rare == "to-train":
            self._refuse(short & (counts == 0), counts, "with one to train on", dropped)
        if self.settings.rare == "drop":
            used = used & ~short
            if used.sum() < min(2, len(self.classes)):
                raise UserError(f"--rare drop leaves {int(used.sum())} classes and a classifier needs two; add images")
        return used

    def _refuse(self, short: NDArray[np.bool_], counts: NDArray[np.int64], shares: str, dropped: int) -> None:
        flag = "--fractions" if self.given is None else "--val-fraction"
        named = {self.classes[label]: int(counts[label]) for label in np.flatnonzero(short).tolist()}
        refuse_short(named, self._needed, shares, dropped, self.classes, flag)

    @property
    def _needed(self) -> int:
        """Images of a class that give some to each split."""
        return needed_images(list(self.shares.values()))

    def _counts(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """(C,) images of each class in what is cut."""
        return np.bincount(self.labels[self._pool(positions)], minlength=len(self.classes))

    def _pool(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The files that are cut."""
        return positions if self.given is None else positions[self.given.numbers[positions] == _TRAIN]

    def split(self, positions: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
        """The files of each split, in the order of `SPLITS`, shuffled; each of `positions` is in exactly one.

        Raises:
            UserError: a group is in two of the source's splits, or there are too few groups.
        """
        pool = self._pool(positions)
        rare = (self._counts(pool) < self._needed)[self.labels[pool]]
        if self.groups is not None:
            rare = np.isin(self.groups[pool], self.groups[pool[rare]])
        splits = self._cut(pool[~rare])
        rng = np.random.default_rng(self.settings.seed)
        if rare.any():
            splits["train"] = rng.permutation(np.concatenate([splits["train"], pool[rare]]))
        if self.given is not None:
            for number, name in enumerate(SPLITS):
                if number != _TRAIN and (of_split := positions[self.given.numbers[positions] == number]).size:
                    splits[name] = rng.permutation(of_split)
        self._refuse_shared_groups(splits)
        return {name: splits[name] for name in SPLITS if name in splits}

    def _cut(self, pool: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
        if not pool.size:
            return {"train": pool}
        if self.groups is None:
            parts = stratified_split(self.labels[pool], self.shares, self.settings.seed)
        else:
            parts = grouped_split(self.labels[pool], self.groups[pool], self.shares, self.settings.seed)
        return {name: pool[part] for name, part in parts.items()}

    def _refuse_shared_groups(self, splits: Mapping[str, NDArray[np.int64]]) -> None:
        """Refuse a group that the source itself has in two splits."""
        if self.groups is None or self.given is None:
            return
        first: dict[int, tuple[int, int]] = {}
        shared: dict[int, str] = {}
        for number, positions in enumerate(splits.values()):
            for group, at in zip(*np.unique(self.groups[positions], return_index=True), strict=True):
                other, where = first.setdefault(int(group), (number, int(positions[at])))
                if other != number:
                    shared.setdefault(int(group), f"{self.file(where)} and {self.file(int(positions[at]))}")
        if shared:
            raise UserError(
                f"--group-by {self.settings.group_by} finds {len(shared)} groups in two splits of the source, such as "
                f"that of {next(iter(shared.values()))}; give --splits stratified, which splits by groups, or leave "
                "--group-by out"
            )
