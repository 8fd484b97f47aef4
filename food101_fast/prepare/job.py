"""The whole of `prepare`: list the source, drop duplicates, split it, write the shards, and the manifest last."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import numpy as np
import orjson
import xxhash
from annotated_types import Ge, Le
from numpy.typing import NDArray
from tqdm import tqdm

from food101_fast.errors import UserError
from food101_fast.images import Check, Fit, Rules
from food101_fast.limits import check_limits
from food101_fast.prepare import unfinished
from food101_fast.prepare.duplicates import Duplicates, FileHasher, drop_duplicates
from food101_fast.prepare.executors import Executor, InProcess, LocalPool, RayCluster
from food101_fast.prepare.records import NotedImage, Reject, ShardResult, ShardTask
from food101_fast.prepare.sources import FolderSource, Source, open_source
from food101_fast.prepare.split import check_counts, check_fractions, stratified_split, stratified_subset
from food101_fast.prepare.write import ShardWriter
from food101_fast.processes import usable_cores
from food101_fast.shards.layout import (
    MANIFEST_NAME,
    NOTES_NAME,
    REJECTS_NAME,
    SPLITS,
    index_name,
    sample_keys,
    shard_name,
)
from food101_fast.shards.manifest import Manifest, SplitEntry, read_manifest, write_manifest
from food101_fast.storage import Folder, LocalFolder, open_folder

_FILES_PER_HASH_TASK = 1000

Line = TypeVar("Line", Reject, NotedImage)


@dataclass(frozen=True, kw_only=True)
class PrepareSettings:
    """Decode, check, resize and write every image once, as WebDataset tars with stratified splits."""

    out: str | Path
    """Folder to write the shards into, a path or a URL such as s3://bucket/shards; made if it is not there."""
    source: str = "hub:ethz/food101"
    """hub:ID (a hub id or a local folder that datasets.load_dataset reads), folder:PLACE (a path or URL with one
    folder per class), or demo: (pictures drawn on the spot, a few of them corrupt on purpose)."""
    size: Annotated[int, Ge(8), Le(4096)] = 192
    """Height and width of the stored images in pixels."""
    encoding: Literal["raw", "jpeg"] = "raw"
    """How they are stored: raw pixels, which load fastest, or JPEG, which takes a tenth of the space."""
    quality: Annotated[int, Ge(1), Le(100)] = 90
    """JPEG quality from 1 to 100, for --encoding jpeg."""
    fit: Fit = "crop"
    """How an image becomes square: crop cuts the longer side evenly, squash changes its proportions."""
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of train, val and test."""
    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = 0  # scikit-learn's range
    """Another seed gives another split, and other pictures from demo:."""
    strict: bool = False
    """Drop also images whose pixels are whole but about which there is something to note."""
    tolerant: bool = False
    """Keep also images with damaged pixels, as far as they can be decoded."""
    min_side: Annotated[int, Ge(1)] = 8
    """Drop images whose shorter side has fewer pixels."""
    duplicates: Duplicates = "drop"
    """Identical files: drop keeps the first, and none where their labels differ; keep keeps all, and reads the source
    once instead of twice."""
    workers: Annotated[int, Ge(1)] = field(default_factory=usable_cores)
    """Processes that decode; their number does not change a byte of the result."""
    executor: Literal["local", "ray"] = "local"
    """Processes on this machine, or a Ray cluster."""
    ray_address: str | None = None
    """Address of the Ray cluster; without it the one that RAY_ADDRESS names, or one that is started here."""
    samples_per_shard: Annotated[int, Ge(1)] = 500
    """Most samples in one tar."""
    limit: Annotated[int, Ge(1)] | None = None
    """Use only this many images, with every class in proportion."""

    def __post_init__(self) -> None:
        check_fractions(self.fractions)
        check_limits(self)
        if self.strict and self.tolerant:
            raise UserError("--strict and --tolerant exclude each other; give one of them or neither")

    @property
    def rules(self) -> Rules:
        """Which files are accepted, and what becomes of them."""
        check: Check = "strict" if self.strict else "tolerant" if self.tolerant else "default"
        return Rules(size=self.size, fit=self.fit, check=check, min_side=self.min_side)

    @property
    def stored_quality(self) -> int | None:
        """JPEG quality of the stored images; None if they are raw."""
        return self.quality if self.encoding == "jpeg" else None

    def identity(self) -> dict[str, Any]:
        """Everything that decides the bytes of the result but the source's files, by name of the flag."""
        return {
            "--source": self.source,
            "--size": self.size,
            "--encoding": self.encoding,
            "--quality": self.stored_quality,
            "--fit": self.fit,
            "--fractions": self.fractions,
            "--seed": self.seed,
            "the check (--strict, --tolerant)": self.rules.check,
            "--min-side": self.min_side,
            "--duplicates": self.duplicates,
            "--samples-per-shard": self.samples_per_shard,
            "--limit": self.limit,
        }


_DECODERS = "the versions of the decoders"


def _identity_of(manifest: Manifest) -> dict[str, Any]:
    """`PrepareSettings.identity` of the run that wrote a manifest, and the source's files."""
    return {
        "--source": manifest.source,
        "--size": manifest.image_size,
        "--encoding": manifest.encoding,
        "--quality": manifest.quality,
        "--fit": manifest.fit,
        "--fractions": list(manifest.fractions),
        "--seed": manifest.seed,
        "the check (--strict, --tolerant)": manifest.check,
        "--min-side": manifest.min_side,
        "--duplicates": manifest.duplicates,
        "--samples-per-shard": manifest.samples_per_shard,
        "--limit": manifest.limit,
        unfinished.SOURCE_FILES: manifest.fingerprint,
    }


class Plan(NamedTuple):
    """What there is to do: a pure function of the source and the settings."""

    tasks: list[ShardTask]
    rejects: list[Reject]
    """Duplicates, which never reach a task."""
    keys: list[str]
    """Key of each file of the source."""
    fingerprint: str
    """Changes with what the source holds: names and sizes, and the contents if duplicates were looked for."""


def prepare(settings: PrepareSettings) -> Manifest:
    """Run the whole job, or what an interrupted run has left of it, and return the manifest of the finished folder.

    A folder that is finished and was made with the same settings from the same files is left as it is.

    Raises:
        UserError: the source or the settings are wrong, or the folder holds something else or belongs to another run.
            Shards that are finished stay for the next run; where there are none, nothing is left behind.
    """
    folder = open_folder(settings.out)
    with _usable(folder):
        files = folder.files()
        existed = folder.exists()
    _refuse_others(folder, files)
    source = open_source(settings.source, seed=settings.seed)
    _refuse_source_as_target(folder, source)
    executor = _executor(settings, folder, source)
    if MANIFEST_NAME in files:
        return _finished(folder, source, settings, executor)
    try:
        with _usable(folder), folder.lock(unfinished.LOCK_NAME):
            return _prepare_locked(folder, source, settings, executor)
    finally:
        if not existed and isinstance(folder, LocalFolder):
            _remove_if_empty(folder.path)


def is_finished(place: str | Path) -> bool:
    """Whether a folder has a manifest."""
    folder = open_folder(place)
    with _usable(folder):
        return MANIFEST_NAME in folder.files()


def _prepare_locked(folder: Folder, source: Source, settings: PrepareSettings, executor: Executor) -> Manifest:
    files = folder.files()
    if MANIFEST_NAME in files:  # the other run ended between the first look and the lock
        return _finished(folder, source, settings, executor)
    begun = unfinished.read_settings(folder, files)
    if begun is not None:
        unfinished.refuse_other_settings(folder, begun, settings.identity())
    unfinished.remove_temporary(folder, files)
    done: dict[str, ShardResult] = {}
    planned: Plan | None = None
    try:
        planned = plan(source, settings, executor)
        identity = {**settings.identity(), unfinished.SOURCE_FILES: planned.fingerprint, _DECODERS: _decoders()}
        if begun is None:
            unfinished.write_settings(folder, identity)
        else:
            unfinished.refuse_other_settings(folder, begun, identity)
            done = unfinished.finished_shards(folder, files, planned.tasks)
        _write(folder, source, planned.tasks, settings, executor, done)
        try:
            manifest = _manifest(source, planned, [done[task.name] for task in planned.tasks], settings)
        except UserError:
            unfinished.remove_records(folder)  # running again would come to the same end
            raise
        _finish(folder, source, manifest, planned, done)
    except KeyboardInterrupt:
        finished = unfinished.count_records(folder.files())
        if finished and planned is not None:
            kept = f"{finished} of {len(planned.tasks)} shards are finished; the same command goes on from there"
            raise KeyboardInterrupt(kept) from None
        raise
    finally:
        left = folder.files()
        if MANIFEST_NAME not in left and not unfinished.count_records(left):
            folder.remove([name for name in left if unfinished.is_ours(name)])
    return manifest


def plan(source: Source, settings: PrepareSettings, executor: Executor) -> Plan:
    """Which sample goes into which shard, at which place.

    The split is decided before any image is decoded, so that a shard depends on no other.

    Raises:
        UserError: the source can't be read, or has too few images of a class.
    """
    kept = np.arange(source.labels.size)
    if settings.limit is not None:
        kept = stratified_subset(source.labels, settings.limit, settings.seed)
    check_counts(source.labels[kept], source.classes, settings.fractions)
    keys = sample_keys(source.classes, source.labels, source.names)
    fingerprint = source.fingerprint
    rejects: list[Reject] = []
    hashes: dict[int, int] | None = None
    if settings.duplicates == "drop":
        hashes = _hash_files(source, kept, executor)
        digest = xxhash.xxh3_64(fingerprint.encode())
        for position in kept.tolist():
            digest.update(hashes[position].to_bytes(16))
        fingerprint = digest.hexdigest()
        kept, rejects = drop_duplicates(source, keys, kept, hashes, settings.rules)
        check_counts(source.labels[kept], source.classes, settings.fractions, dropped=len(rejects))
    parts = stratified_split(source.labels[kept], source.classes, settings.fractions, settings.seed)
    tasks = [
        _task(split, index, part, source, keys, hashes)
        for split, positions in parts.items()
        for index, part in enumerate(
            np.array_split(kept[positions], math.ceil(positions.size / settings.samples_per_shard))
        )
    ]
    return Plan(tasks, rejects, keys, fingerprint)


def _hash_files(source: Source, positions: NDArray[np.int64], executor: Executor) -> dict[int, int]:
    chunks = [tuple(chunk.tolist()) for chunk in _chunks(positions, _FILES_PER_HASH_TASK)]
    hashes: dict[int, int] = {}
    with _bar("hash", positions.size) as bar:
        for chunk, of_chunk in executor.run(FileHasher(source=source), chunks, lambda done: _advance(bar, done)):
            hashes.update(zip(chunk, of_chunk, strict=True))
        _advance(bar, positions.size)
    return hashes


def _chunks(positions: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    return np.array_split(positions, max(1, math.ceil(positions.size / size)))


def _task(
    split: str, index: int, part: NDArray[np.int64], source: Source, keys: list[str], hashes: dict[int, int] | None
) -> ShardTask:
    # The dot makes the order that of the members' names, where it follows the key.
    ordered = sorted(part.tolist(), key=lambda position: keys[position] + ".")
    return ShardTask(
        split=split,
        name=shard_name(split, index),
        positions=tuple(ordered),
        labels=tuple(source.labels[ordered].tolist()),
        keys=tuple(keys[position] for position in ordered),
        hashes=None if hashes is None else tuple(hashes[position] for position in ordered),
    )


def _write(
    folder: Folder,
    source: Source,
    tasks: Sequence[ShardTask],
    settings: PrepareSettings,
    executor: Executor,
    done: dict[str, ShardResult],
) -> None:
    """Write the shards that are not in `done`, and add them to it as they are stored."""
    todo = [task for task in tasks if task.name not in done]
    total = sum(map(len, tasks))
    kept = total - sum(map(len, todo))
    writer = ShardWriter(source=source, folder=folder, rules=settings.rules, quality=settings.stored_quality)
    with _bar("prepare", total, initial=kept) as bar:
        for result in executor.run(writer, todo, lambda images: _advance(bar, kept + images)):
            done[result.entry.name] = result
        _advance(bar, total)


def _bar(name: str, total: int, initial: int = 0) -> tqdm[None]:
    return tqdm(total=total, initial=initial, desc=name, unit="images", smoothing=0.05)


def _advance(bar: tqdm[None], done: int) -> None:
    if not bar.disable and done > bar.n == bar.initial:  # a disabled bar (TQDM_DISABLE) has no `initial`
        bar.unpause()  # so that the rate leaves out the start of the workers
    bar.update(done - bar.n)


def _finish(folder: Folder, source: Source, manifest: Manifest, planned: Plan, done: Mapping[str, ShardResult]) -> None:
    from food101_fast.prepare import overview  # here, since the workers do without matplotlib

    results = [done[task.name] for task in planned.tasks]
    rejects = _sorted([*planned.rejects, *(reject for result in results for reject in result.rejects)])
    folder.write(REJECTS_NAME, _lines(rejects))
    folder.write(NOTES_NAME, _lines(_sorted([note for result in results for note in result.notes])))
    positions = {key: position for position, key in enumerate(planned.keys)}
    for name, picture in overview.draw(manifest, folder, source, rejects, positions).items():
        folder.write(name, picture)
    write_manifest(manifest, folder)
    unfinished.remove_records(folder)


def _sorted(lines: Sequence[Line]) -> list[Line]:
    return sorted(lines, key=lambda line: line.key)


def _lines(records: Sequence[Reject | NotedImage]) -> bytes:
    return b"".join(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in records)


def _manifest(source: Source, planned: Plan, results: Sequence[ShardResult], settings: PrepareSettings) -> Manifest:
    splits: dict[str, SplitEntry] = {}
    for split in SPLITS:
        of_split = [result for result in results if result.entry.name.startswith(f"{split}-")]
        if of_split:
            splits[split] = _split_entry(split, of_split, source)
    rejects = [*planned.rejects, *(reject for result in results for reject in result.rejects)]
    return Manifest(
        classes=source.classes,
        image_size=settings.size,
        encoding=settings.encoding,
        quality=settings.stored_quality,
        fit=settings.fit,
        check=settings.rules.check,
        min_side=settings.min_side,
        duplicates=settings.duplicates,
        samples_per_shard=settings.samples_per_shard,
        limit=settings.limit,
        seed=settings.seed,
        fractions=settings.fractions,
        source=settings.source,
        fingerprint=planned.fingerprint,
        read=sum(map(len, planned.tasks)) + len(planned.rejects),
        rejects=_count(reject.reason for reject in rejects),
        notes=_count(note.note for result in results for note in result.notes),
        splits=splits,
    )


def _split_entry(split: str, results: Sequence[ShardResult], source: Source) -> SplitEntry:
    counts = np.sum([result.class_counts for result in results], axis=0)
    if not counts.all():
        empty = source.classes[int(counts.argmin())]
        reasons = _count(reject.reason for result in results for reject in result.rejects)
        raise UserError(
            f"every image of class {empty!r} that was chosen for the {split} split had to be dropped (dropped there: "
            f"{', '.join(f'{reason} {count}' for reason, count in reasons.items())}); "
            "repair or replace the class's images, or remove the class"
        )
    return SplitEntry(
        samples=int(counts.sum()),
        class_counts=tuple(counts.tolist()),
        shards=tuple(result.entry for result in results),
    )


def _count(kinds: Iterator[str]) -> dict[str, int]:
    return dict(sorted(Counter(kinds).items()))


def _decoders() -> str:
    return ", ".join(f"{name} {version(name)}" for name in ("pillow", "simplejpeg"))


def _executor(settings: PrepareSettings, folder: Folder, source: Source) -> Executor:
    if not folder.is_shared or (isinstance(source, FolderSource) and not source.folder.is_shared):
        return InProcess()  # no other process would see a folder that lies in this one's memory
    if settings.executor == "ray":
        return RayCluster(settings.ray_address, settings.workers)
    return LocalPool(settings.workers)


def _finished(folder: Folder, source: Source, settings: PrepareSettings, executor: Executor) -> Manifest:
    """The manifest of a finished folder, if it is what would be made now."""
    manifest = read_manifest(folder)
    sizes = folder.files()
    for entry in (entry for split in manifest.splits.values() for entry in split.shards):
        if sizes.get(entry.name) != entry.bytes or index_name(entry.name) not in sizes:
            raise UserError(
                f"{folder.url} is finished, but {entry.name} or its index is missing or has another size; "
                "remove the folder and prepare it again"
            )
    there = _identity_of(manifest)
    unfinished.refuse_other_settings(folder, there, settings.identity())
    unfinished.refuse_other_settings(
        folder, there, {unfinished.SOURCE_FILES: plan(source, settings, executor).fingerprint}
    )
    with _usable(folder):
        unfinished.remove_records(folder)  # a run that was killed at its very end leaves them
    return manifest


def _refuse_others(folder: Folder, files: Mapping[str, int]) -> None:
    if isinstance(folder, LocalFolder) and folder.path.exists() and not folder.path.is_dir():
        raise UserError(f"{folder.url} is a file; give a folder for --out")
    strangers = [name for name in files if not unfinished.is_ours(name)]
    if strangers:
        raise UserError(
            f"{folder.url} holds other files, such as {strangers[0]!r}; give an empty or new folder for --out"
        )


def _refuse_source_as_target(folder: Folder, source: Source) -> None:
    if not isinstance(source, FolderSource):
        return
    if isinstance(folder, LocalFolder) and isinstance(source.folder, LocalFolder):
        inside = folder.path.resolve().is_relative_to(source.folder.path.resolve())
    else:
        inside = f"{folder.url}/".startswith(f"{source.folder.url}/")
    if inside:
        raise UserError(f"--out {folder.url} lies inside the source {source.folder.url}; give a folder outside of it")


@contextmanager
def _usable(folder: Folder) -> Iterator[None]:
    """What the disk or the service says against the folder becomes one sentence. Sources speak for themselves."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write into {folder.url} ({error.strerror or error}); see to room, permission or keys there, "
            "or give another folder for --out, and run again: what is finished is kept"
        ) from error


def _remove_if_empty(path: Path) -> None:
    if path.is_dir() and not any(path.iterdir()):
        path.rmdir()
