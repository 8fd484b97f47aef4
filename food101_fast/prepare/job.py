"""The whole of `prepare`: list the source, drop duplicates, split it, write the shards, and the manifest last."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import orjson

from food101_fast.errors import UserError
from food101_fast.prepare import unfinished
from food101_fast.prepare.executors import Executor, InProcess, LocalPool, RayCluster
from food101_fast.prepare.plan import Plan, plan
from food101_fast.prepare.progress import advance, progress_bar
from food101_fast.prepare.records import NotedImage, Reject, ShardResult, ShardTask
from food101_fast.prepare.settings import PrepareSettings, identity_of
from food101_fast.prepare.sources import FolderSource, Source, open_source
from food101_fast.prepare.summary import make_manifest
from food101_fast.prepare.write import ShardWriter
from food101_fast.shards.layout import (
    MANIFEST_NAME,
    NOTES_NAME,
    REJECTS_NAME,
    index_name,
)
from food101_fast.shards.manifest import Manifest, read_manifest, write_manifest
from food101_fast.storage import Folder, LocalFolder, open_folder

_DECODERS = "the versions of the decoders"

Line = TypeVar("Line", Reject, NotedImage)


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
            manifest = make_manifest(source, planned, [done[task.name] for task in planned.tasks], settings)
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
    with progress_bar("prepare", total, initial=kept) as bar:
        for result in executor.run(writer, todo, lambda images: advance(bar, kept + images)):
            done[result.entry.name] = result
        advance(bar, total)


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
    there = identity_of(manifest)
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
