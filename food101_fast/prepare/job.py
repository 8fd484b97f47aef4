"""The whole of `prepare`: list the source, split it, write the shards, and put the manifest in place last."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray
from tqdm import tqdm

from food101_fast.errors import UserError
from food101_fast.prepare.clean import Fit
from food101_fast.prepare.executors import write_shards
from food101_fast.prepare.sources import FolderSource, Source, open_source
from food101_fast.prepare.split import check_fractions, stratified_split, stratified_subset
from food101_fast.prepare.write import ShardResult, ShardTask, ShardWriter
from food101_fast.shards.layout import MANIFEST_NAME, REJECTS_NAME, SPLITS, sample_keys, shard_name
from food101_fast.shards.manifest import Manifest, SplitEntry, write_atomically, write_manifest


@dataclass(frozen=True, kw_only=True)
class PrepareSettings:
    """Decode, check, resize and write every image once, as WebDataset tars with stratified splits."""

    out: Path
    """Folder to write the shards into; made if it is not there."""
    source: str = "hub:ethz/food101"
    """hub:ID (a hub id or a local folder that datasets.load_dataset reads), folder:PATH (one folder per class),
    or demo: (pictures drawn on the spot, a few of them corrupt on purpose)."""
    size: int = 192
    """Height and width of the stored images in pixels."""
    fit: Fit = "crop"
    """How an image becomes square: crop cuts the longer side evenly, squash changes its proportions."""
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of train, val and test."""
    seed: int = 0
    """Another seed gives another split, and other pictures from demo:."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Worker processes; their number does not change a byte of the result."""
    samples_per_shard: int = 500
    """Most samples in one tar."""
    limit: int | None = None
    """Use only this many images, with every class in proportion."""

    def __post_init__(self) -> None:
        check_fractions(self.fractions)
        if not 8 <= self.size <= 4096:
            raise UserError(f"--size {self.size} should be between 8 and 4096 pixels")
        for flag, value in (("--workers", self.workers), ("--samples-per-shard", self.samples_per_shard)):
            if value < 1:
                raise UserError(f"{flag} {value} should be at least 1")
        if self.limit is not None and self.limit < 1:
            raise UserError(f"--limit {self.limit} should be at least 1")


def prepare(settings: PrepareSettings) -> Manifest:
    """Run the whole job and return the manifest of the finished folder.

    Raises:
        UserError: the source or the settings are wrong, or the folder holds something else. Nothing is left behind
            in the folder then, and no folder that was not there before.
    """
    _check_folder(settings.out)
    source = open_source(settings.source, seed=settings.seed)
    if isinstance(source, FolderSource) and settings.out.resolve().is_relative_to(source.path.resolve()):
        raise UserError(f"--out {settings.out} lies inside the source {source.path}; give a folder outside of it")
    tasks = plan(source, settings)
    created = _make_folder(settings.out)
    try:
        results = _write(source, tasks, settings)
        manifest = _manifest(source, results, settings)
        rejects = sorted((r for result in results for r in result.rejects), key=lambda reject: reject.key)
        lines = b"".join(orjson.dumps(r, option=orjson.OPT_APPEND_NEWLINE) for r in rejects)
        write_atomically(settings.out / REJECTS_NAME, lines)
        write_manifest(manifest, settings.out)
    except BaseException:
        _remove_unfinished(settings.out)
        if created:
            settings.out.rmdir()
        raise
    return manifest


def plan(source: Source, settings: PrepareSettings) -> list[ShardTask]:
    """Which sample goes into which shard, at which place: a pure function of the source's listing and the settings."""
    kept = np.arange(source.labels.size)
    if settings.limit is not None:
        kept = stratified_subset(source.labels, settings.limit, settings.seed)
    keys = sample_keys(source.classes, source.labels, source.names)
    parts = stratified_split(source.labels[kept], source.classes, settings.fractions, settings.seed)
    return [
        _task(split, index, part, source, keys)
        for split, positions in parts.items()
        for index, part in enumerate(
            np.array_split(kept[positions], math.ceil(positions.size / settings.samples_per_shard))
        )
    ]


def _task(split: str, index: int, part: NDArray[np.int64], source: Source, keys: list[str]) -> ShardTask:
    # The dot makes the order that of the members' names, where it follows the key.
    ordered = sorted(part.tolist(), key=lambda position: keys[position] + ".")
    return ShardTask(
        split=split,
        name=shard_name(split, index),
        positions=tuple(ordered),
        labels=tuple(source.labels[ordered].tolist()),
        keys=tuple(keys[position] for position in ordered),
    )


def _write(source: Source, tasks: list[ShardTask], settings: PrepareSettings) -> list[ShardResult]:
    writer = ShardWriter(source=source, folder=settings.out, image_size=settings.size, fit=settings.fit)
    total = sum(len(task.positions) for task in tasks)
    with tqdm(total=total, desc="prepare", unit="images", smoothing=0.05) as bar:
        results = list(
            write_shards(
                writer,
                tasks,
                workers=min(settings.workers, len(tasks)),
                progress=lambda done: _advance(bar, done),
            )
        )
        _advance(bar, total)
    order = {task.name: place for place, task in enumerate(tasks)}
    return sorted(results, key=lambda result: order[result.task.name])


def _advance(bar: tqdm[None], done: int) -> None:
    bar.update(done - bar.n)


def _manifest(source: Source, results: list[ShardResult], settings: PrepareSettings) -> Manifest:
    splits: dict[str, SplitEntry] = {}
    for split in SPLITS:
        of_split = [result for result in results if result.task.split == split]
        if of_split:
            splits[split] = _split_entry(split, of_split, source)
    return Manifest(
        classes=source.classes,
        image_size=settings.size,
        encoding="raw",
        fit=settings.fit,
        seed=settings.seed,
        fractions=settings.fractions,
        source=settings.source,
        fingerprint=source.fingerprint,
        read=sum(len(result.task.positions) for result in results),
        rejects=_count_reasons(results),
        splits=splits,
    )


def _split_entry(split: str, results: list[ShardResult], source: Source) -> SplitEntry:
    labels = [label for result in results for label in result.labels]
    counts = np.bincount(np.array(labels, np.int64), minlength=len(source.classes))
    if not counts.all():
        empty = source.classes[int(counts.argmin())]
        raise UserError(
            f"every image of class {empty!r} that was chosen for the {split} split had to be dropped (dropped there: "
            f"{', '.join(f'{reason} {count}' for reason, count in _count_reasons(results).items())}); "
            "repair or replace the class's images, or remove the class"
        )
    return SplitEntry(
        samples=len(labels),
        class_counts=tuple(counts.tolist()),
        shards=tuple(result.entry for result in results),
    )


def _count_reasons(results: Iterable[ShardResult]) -> Mapping[str, int]:
    reasons = Counter(reject.reason for result in results for reject in result.rejects)
    return dict(sorted(reasons.items()))


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; give a folder for --out")
    if (folder / MANIFEST_NAME).exists():
        raise UserError(f"{folder} already holds a finished set of shards; remove it or give another --out")
    strangers = [entry.name for entry in _entries(folder) if not _is_ours(entry)]
    if strangers:
        raise UserError(f"{folder} holds other files, such as {strangers[0]!r}; give an empty or new folder for --out")


def _make_folder(folder: Path) -> bool:
    created = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_unfinished(folder)
    except OSError as error:
        raise UserError(f"cannot write into {folder} ({error.strerror}); give another folder for --out") from error
    return created


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _is_ours(path: Path) -> bool:
    """Whether an unfinished run may have left this file."""
    name = path.name.removesuffix(".tmp")
    return name in (MANIFEST_NAME, REJECTS_NAME) or (
        name.startswith(tuple(f"{split}-" for split in SPLITS)) and name.endswith((".tar", ".index.npy"))
    )


def _remove_unfinished(folder: Path) -> None:
    for entry in _entries(folder):
        if _is_ours(entry):
            entry.unlink()
