"""A table of Food-101 photographs with the split that the data set's authors published, for `prepare --splits source`.

    python benchmarks/official_split.py --photos DIR --names HUB --out food101.csv [--val-fraction 0.1]
    python -m food101_fast.prepare --source table:food101.csv --splits source --out shards/food101

The official split has 750 training and 250 test images of each class (Bossard et al., "Food-101", ECCV 2014). Which is
which is read from a copy of the hub's `ethz/food101`, whose rows have the names of the files; the size of its images
does not matter. Photographs that it does not name are listed, and left out.

With --val-fraction the table also says which training images are val: the same share of each class. Then a program
that reads the photographs itself has the same val as our shards.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import orjson
import pyarrow.parquet as parquet
from annotated_types import Ge, Lt

from food101_fast.cli import exit_with, parse
from food101_fast.errors import UserError
from food101_fast.limits import check_limits
from food101_fast.storage import write_atomically, writing

_SPLITS = {"train": "train", "validation": "test"}
"""The official split by the hub's name for it."""
_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Write a table with the official split of Food-101 photographs."""

    photos: Path
    """Folder with a folder of photographs for each class, which have their original names."""
    names: Path
    """Folder with the parquet files of `ethz/food101`, at any size."""
    out: Path
    """The table, a CSV with the columns file, label and split."""
    val_fraction: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of the training images of each class that are val."""
    seed: Annotated[int, Ge(0)] = 0
    """Decides which."""

    def __post_init__(self) -> None:
        check_limits(self)


def official_splits(names: Path) -> dict[tuple[str, str], str]:
    """The split of each photograph, by its class and the name of its file.

    Raises:
        UserError: there are no parquet files of the data set.
    """
    found: dict[tuple[str, str], str] = {}
    for hub_split, split in _SPLITS.items():
        files = sorted(names.rglob(f"{hub_split}-*.parquet"))
        if not files:
            raise UserError(f"{names} has no {hub_split}-*.parquet; give a copy of the hub's ethz/food101 to --names")
        for file in map(parquet.ParquetFile, files):
            features = orjson.loads(file.schema_arrow.metadata[b"huggingface"])["info"]["features"]
            classes = features["label"]["names"]
            for rows in file.iter_batches(columns=["image.path", "label"]):
                paths, labels = rows.column(0).field("path").to_pylist(), rows.column(1).to_pylist()
                found |= {(classes[label], path): split for path, label in zip(paths, labels, strict=True)}
    return found


def with_val(rows: list[tuple[str, str, str]], fraction: float, seed: int) -> list[tuple[str, str, str]]:
    """The rows (file, label, split), with a share of each class's training images as val."""
    random = np.random.default_rng(seed)
    val: set[str] = set()
    for label in sorted({label for _, label, _ in rows}):
        files = [file for file, of, split in rows if (of, split) == (label, "train")]
        val |= set(random.permutation(files)[: round(fraction * len(files))].tolist())
    return [(file, label, "val" if file in val else split) for file, label, split in rows]


def write_table(settings: Settings) -> None:
    """Write the table, and say what it has.

    Raises:
        UserError: there are no photographs or no lists, or the table can't be written.
    """
    splits = official_splits(settings.names)
    photographs = sorted(settings.photos.glob("*/*.jpg"))
    known = [path for path in photographs if (path.parent.name, path.name) in splits]
    if not known:
        raise UserError(f"{settings.photos} has no CLASS/NAME.jpg of Food-101; give the folder with the class folders")
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["file", "label", "split"])
    rows = [(str(path.absolute()), path.parent.name, splits[path.parent.name, path.name]) for path in known]
    rows = with_val(rows, settings.val_fraction, settings.seed)
    table.writerows(rows)
    with writing(settings.out, "or give another --out"):
        write_atomically(settings.out, text.getvalue().encode())
    counts = Counter(split for _, _, split in rows)
    classes = len({label for _, label, _ in rows})
    sizes = ", ".join(f"{split} {counts[split]:,}" for split in ("train", "val", "test") if counts[split])
    print(f"{settings.out}: {sizes} of {classes} classes")
    unknown = sorted(str(path) for path in set(photographs) - set(known))
    if unknown:
        print(f"left out, since the official lists do not name them: {len(unknown):,} ({', '.join(unknown[:_SHOWN])})")


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    write_table(parse(Settings, "benchmarks/official_split", argv))


if __name__ == "__main__":
    exit_with(main)
