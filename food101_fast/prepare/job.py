"""The whole of `prepare`: list the source, drop duplicates, split it, write the shards, and the manifest last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from food101_fast.errors import UserError
from food101_fast.images import plugin_versions
from food101_fast.prepare import append, unfinished
from food101_fast.prepare.executors import Executor, InProcess, LocalPool, RayCluster
from food101_fast.prepare.given import mixed_splits
from food101_fast.prepare.plan import Plan, plan
from food101_fast.prepare.progress import advance, progress_bar
from food101_fast.prepare.records import UNFINISHED, ShardResult, ShardTask
from food101_fast.prepare.replace import replace_damaged
from food101_fast.prepare.settings import PrepareSettings
from food101_fast.prepare.sources import FolderSource, Source, open_source
from food101_fast.prepare.summary import make_manifest
from food101_fast.prepare.write import ADVICE, ShardWriter
from food101_fast.processes import refuse_import
from food101_fast.progress import note
from food101_fast.shards.layout import MANIFEST_NAME, NOTES_NAME, REJECTS_NAME, index_name
from food101_fast.shards.manifest import Manifest, read_manifest, write_manifest
from food101_fast.shards.rejects import NotedImage, Reject, to_lines
from food101_fast.storage import Folder, LocalFolder, open_folder, writing


def prepare(settings: PrepareSettings) -> Manifest:
    """Run the whole job, or what an interrupted run has left of it, and return the manifest of the finished folder.

    A folder that is finished and was made with the same settings from the same files is left as it is. With `append`,
    files that are new in the source are added to it.

    Raises:
        UserError: the source or the settings are wrong, or the folder has other files or belongs to another run.
            Finished shards stay for the next run; where there are none, nothing is left behind.
    """
    refuse_import("prepare()")
    folder = open_folder(settings.out)
    with writing(folder.url, ADVICE):
        files = folder.files()
        existed = folder.exists()
    _refuse_others(folder, files)
    source = open_source(settings.source, settings.source_options)
    _refuse_source_as_target(folder, source)
    run = PrepareRun(folder=folder, source=source, settings=settings, executor=_executor(settings, folder, source))
    if settings.append:
        if MANIFEST_NAME not in files:
            raise UserError(f"{folder.url} is not a finished folder of shards; leave --append out to make one")
        with writing(folder.url, ADVICE), folder.lock(unfinished.LOCK_NAME):
            return run.append()
    if MANIFEST_NAME in files:
        return run.check_finished()
    try:
        with writing(folder.url, ADVICE), folder.lock(unfinished.LOCK_NAME):
            return run.finish()
    finally:
        if not existed and isinstance(folder, LocalFolder):
            _remove_if_empty(folder.path)


def digest_of(location: str | Path) -> str | None:
    """The digest of the manifest of a folder, given by path or URL; None if it is not finished.

    Raises:
        UserError: the folder can't be listed, or its manifest is damaged.
    """
    folder = open_folder(location)
    with writing(folder.url, ADVICE):
        if MANIFEST_NAME not in folder.files():
            return None
    return read_manifest(folder).digest


@dataclass(frozen=True, kw_only=True)
class PrepareRun:
    """One run: where images come from, where shards go, with which settings, and who does the work."""

    folder: Folder
    source: Source
    settings: PrepareSettings
    executor: Executor

    def check_finished(self) -> Manifest:
        """The manifest of a finished folder.

        Raises:
            UserError: this run would write other shards, or a shard of the folder is missing.
        """
        manifest = read_manifest(self.folder)
        if manifest.lineage:
            raise UserError(f"images were appended to {self.folder.url}; give --append to add what is new")
        self._check_shards(manifest)
        unfinished.refuse_other_settings(self.folder, manifest, self.settings.stored)
        fingerprint = plan(self.source, self.settings, self.executor).fingerprint
        unfinished.refuse_other_files(self.folder, manifest.fingerprint, fingerprint, finished=True)
        with writing(self.folder.url, ADVICE):
            unfinished.remove_records(self.folder)  # a run that was killed at its very end leaves them
        return manifest

    def append(self) -> Manifest:
        """Add the files that are new in the source as new shards; the folder must be finished and locked.

        The manifest is replaced at the end: until then, and if the process is killed, the folder is what it was.

        Raises:
            OSError: the folder can't be written.
            UserError: the source can't be read, has other classes, or the folder was made with other settings.
        """
        before = read_manifest(self.folder)
        self._check_shards(before)
        unfinished.refuse_other_settings(self.folder, before, self.settings.stored)
        stored = append.read_stored(self.folder, before)
        planned = append.plan_append(self.source, self.settings, self.executor, stored)
        if not planned.tasks and not planned.rejects:
            unfinished.remove_strays(self.folder, before)
            unfinished.remove_records(self.folder)
            note(f"the source has no file that {self.folder.url} does not have; nothing was changed")
            return before
        origin = unfinished.Origin(settings=self.settings.stored, fingerprint=planned.fingerprint, decoders=_decoders())
        files = self.folder.files()
        done: dict[str, ShardResult] = {}
        if unfinished.read_origin(self.folder, [name for name in files if name.startswith(UNFINISHED)]) == origin:
            done = unfinished.finished_shards(self.folder, files, planned.tasks)
        else:
            unfinished.start_again(self.folder)
            unfinished.write_origin(self.folder, origin)
        results = self._write_shards(planned, done)
        manifest = append.joined(before, make_manifest(planned, results, self.settings, is_whole=False))
        self._write_rest(planned, results, manifest, stored.rejects, stored.notes)
        unfinished.remove_strays(self.folder, manifest)
        added = sum(result.entry.samples for result in results)
        note(f"added {added:,} images; the {manifest.lineage[-1].samples:,} before them are unchanged")
        return manifest

    def _check_shards(self, manifest: Manifest) -> None:
        sizes = self.folder.files()
        for entry in (entry for split in manifest.splits.values() for entry in split.shards):
            if sizes.get(entry.name) != entry.bytes or index_name(entry.name) not in sizes:
                raise UserError(
                    f"{self.folder.url} is finished, but {entry.name} or its index is missing or has another size; "
                    "remove the folder and prepare it again"
                )

    def finish(self) -> Manifest:
        """Write the shards that are missing, and then the rest of the folder, which must be locked.

        Raises:
            OSError: the folder can't be written.
            UserError: the source can't be read, or the folder was started with other settings.
            KeyboardInterrupt: with a sentence about what is finished.
        """
        files = self.folder.files()
        if MANIFEST_NAME in files:  # another run has finished before this one got the lock
            return self.check_finished()
        before = unfinished.read_origin(self.folder, files)
        if before is not None:
            unfinished.refuse_other_settings(self.folder, before.settings, self.settings.stored)
        unfinished.remove_temporary(self.folder, files)
        planned: Plan | None = None
        if (mixed := mixed_splits(self.source, self.settings)) is not None:
            names = ", ".join(mixed.names)
            note(f"the splits of the source ({names}) are joined and split again; --splits source keeps them")
        try:
            planned = plan(self.source, self.settings, self.executor)
            return self._carry_out(planned, before, files)
        except KeyboardInterrupt:
            finished = unfinished.count_records(self.folder.files())
            if finished and planned is not None:
                kept = f"{finished} of {len(planned.tasks)} shards are finished; run the same command again to continue"
                raise KeyboardInterrupt(kept) from None
            raise
        finally:
            left = self.folder.files()
            if MANIFEST_NAME not in left and not unfinished.count_records(left):
                self.folder.remove([name for name in left if unfinished.is_ours(name)])

    def _carry_out(self, planned: Plan, before: unfinished.Origin | None, files: Mapping[str, int]) -> Manifest:
        origin = unfinished.Origin(settings=self.settings.stored, fingerprint=planned.fingerprint, decoders=_decoders())
        done: dict[str, ShardResult] = {}
        if before is None:
            unfinished.write_origin(self.folder, origin)
        else:
            unfinished.refuse_other_origin(self.folder, before, origin)
            done = unfinished.finished_shards(self.folder, files, planned.tasks)
        results = self._write_shards(planned, done)
        while (changed := replace_damaged(self.source, planned, results)) is not None:
            for moved in changed.notes[len(planned.notes) :]:
                note(f"{moved.file} {moved.detail}")
            planned = changed
            results = self._write_shards(planned, {result.entry.name: result for result in results})
        try:
            manifest = make_manifest(planned, results, self.settings)
        except UserError:
            unfinished.remove_records(self.folder)  # running again would come to the same end
            raise
        self._write_rest(planned, results, manifest)
        return manifest

    def _write_shards(self, planned: Plan, done: Mapping[str, ShardResult]) -> list[ShardResult]:
        """Write the shards that are not in `done` as planned; the results of all tasks, in their order."""
        tasks = planned.tasks
        results = {task.name: done[task.name] for task in tasks if _is_done(task, done)}
        todo = [task for task in tasks if task.name not in results]
        total = sum(map(len, tasks))
        kept = total - sum(map(len, todo))
        writer = ShardWriter(
            source=self.source,
            folder=self.folder,
            rules=self.settings.rules,
            classes=len(planned.classes),
            quality=self.settings.stored.quality,
        )
        with progress_bar("prepare", total, initial=kept) as bar:
            for result in self.executor.run(writer, todo, lambda images: advance(bar, kept + images)):
                results[result.entry.name] = result
            advance(bar, total)
        return [results[task.name] for task in tasks]

    def _write_rest(
        self,
        planned: Plan,
        results: Sequence[ShardResult],
        manifest: Manifest,
        rejects_before: Sequence[Reject] = (),
        notes_before: Sequence[NotedImage] = (),
    ) -> None:
        """Write the lists of dropped and noted images, the pictures, and the manifest last."""
        from food101_fast.prepare import overview  # here, since the workers do without matplotlib

        rejects = [*rejects_before, *planned.rejects, *(reject for result in results for reject in result.rejects)]
        self.folder.write(REJECTS_NAME, to_lines(rejects))
        notes = [*notes_before, *planned.notes, *(note for result in results for note in result.notes)]
        self.folder.write(NOTES_NAME, to_lines(notes))
        positions = {key: position for position, key in enumerate(planned.keys)}
        rejects.sort(key=lambda reject: reject.key)
        for name, picture in overview.draw(manifest, self.folder, self.source, rejects, positions).items():
            self.folder.write(name, picture)
        write_manifest(manifest, self.folder)
        unfinished.remove_records(self.folder)


def _is_done(task: ShardTask, done: Mapping[str, ShardResult]) -> bool:
    return task.name in done and done[task.name].task == task.digest


def _decoders() -> str:
    versions = {name: version(name) for name in ("pillow", "simplejpeg")} | plugin_versions()
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def _executor(settings: PrepareSettings, folder: Folder, source: Source) -> Executor:
    if not (folder.is_shared and source.is_shared):
        return InProcess()  # other processes do not see a folder in this one's memory
    if settings.executor == "ray":
        return RayCluster(settings.ray_address, settings.workers)
    return LocalPool(settings.workers)


def _refuse_others(folder: Folder, files: Mapping[str, int]) -> None:
    if isinstance(folder, LocalFolder) and folder.path.exists() and not folder.path.is_dir():
        raise UserError(f"{folder.url} is a file; give a folder for --out")
    strangers = [name for name in files if not unfinished.is_ours(name)]
    if strangers:
        raise UserError(
            f"{folder.url} has other files, such as {strangers[0]!r}; give an empty or new folder for --out"
        )


def _refuse_source_as_target(folder: Folder, source: Source) -> None:
    if not isinstance(source, FolderSource):
        return
    if isinstance(folder, LocalFolder) and isinstance(source.folder, LocalFolder):
        inside = folder.path.resolve().is_relative_to(source.folder.path.resolve())
    else:
        inside = f"{folder.url}/".startswith(f"{source.folder.url}/")
    if inside:
        raise UserError(f"--out {folder.url} is inside the source {source.folder.url}; give a folder outside of it")


def _remove_if_empty(path: Path) -> None:
    if path.is_dir() and not any(path.iterdir()):
        path.rmdir()
