"""What an interrupted run leaves behind, so that the next one with the same settings continues where it ended.

While a folder is unfinished, its subfolder `.unfinished` has the settings, a lock, and a record for each shard that is
stored. It is removed when the manifest is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

import orjson
import xxhash

from food101_fast.documents import parse
from food101_fast.errors import UserError
from food101_fast.prepare.records import UNFINISHED, ShardResult, ShardTask, record_name
from food101_fast.shards.layout import MANIFEST_NAME, NOTES_NAME, OVERVIEW_NAMES, REJECTS_NAME, SPLITS, index_name
from food101_fast.shards.manifest import Manifest, StoredSettings
from food101_fast.storage import TEMPORARY_SUFFIX, Folder, LocalFolder

LOCK_NAME = f"{UNFINISHED}/lock"
_SETTINGS_NAME = f"{UNFINISHED}/settings.json"
# Flags that are not called like the field of the manifest.
_FLAGS = {
    "image_size": "--size",
    "check": "the check (--strict, --tolerant)",
    "split_by": "--splits",
    "only_classes": "--classes",
}


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Everything that decides the bytes of a folder. A run continues only in a folder of the same origin."""

    settings: StoredSettings
    fingerprint: str
    """Of the source: 16 hexadecimal digits that change with its files."""
    decoders: str
    """Libraries that decode images, and their versions."""


def is_ours(name: str) -> bool:
    """Whether the name is one that prepare writes."""
    if name.endswith(TEMPORARY_SUFFIX):
        name = name.removesuffix(TEMPORARY_SUFFIX).rpartition(".")[0]
    known = (MANIFEST_NAME, REJECTS_NAME, NOTES_NAME, *OVERVIEW_NAMES)
    return name in known or name.startswith(f"{UNFINISHED}/") or _is_shard(name)


def _is_shard(name: str) -> bool:
    return name.startswith(tuple(f"{split}-" for split in SPLITS)) and name.endswith((".tar", ".index.npy"))


def read_origin(folder: Folder, files: Iterable[str]) -> Origin | None:
    """What an unfinished folder was started with; None in a folder that nobody has started.

    Raises:
        UserError: there are shards, but no record of their settings, or one that can't be read.
    """
    if _SETTINGS_NAME in files:
        content, where = folder.read(_SETTINGS_NAME), f"{folder.url}/{_SETTINGS_NAME}"
        return parse(content, Origin, where=where, advice="remove the folder, or give another --out")
    if any(_is_shard(name) for name in files):
        raise UserError(
            f"{folder.url} has shards, but neither a manifest nor a record of the settings that they were made with; "
            "remove them or give another --out"
        )
    return None


def write_origin(folder: Folder, origin: Origin) -> None:
    """Start a folder."""
    folder.write(_SETTINGS_NAME, orjson.dumps(origin))


def refuse_other_settings(folder: Folder, before: StoredSettings, now: StoredSettings) -> None:
    """Refuse to continue in a folder that was started with other settings.

    Raises:
        UserError: some settings differ; the message names them.
    """
    names = [field.name for field in fields(StoredSettings)]
    pairs = [(name, getattr(before, name), getattr(now, name)) for name in names]
    different = [f"{_flag(name)} was {_text(old)} and is {_text(new)} now" for name, old, new in pairs if old != new]
    if different:
        raise UserError(
            f"{folder.url} was started with other settings ({'; '.join(different)}); use the same ones, remove the "
            "folder, or give another --out"
        )


def refuse_other_files(folder: Folder, before: str, now: str, *, finished: bool = False) -> None:
    """Refuse to continue in a folder whose source had other files, as their fingerprints show.

    To a finished folder new files can be appended, which the error then says.

    Raises:
        UserError: the fingerprints differ.
    """
    if before != now:
        append = "give --append if files were added, or " if finished else ""
        raise UserError(
            f"the source has changed since {folder.url} was started: other files, names or contents; {append}remove "
            "the folder and prepare it again, or give another --out"
        )


def refuse_other_origin(folder: Folder, before: Origin, now: Origin) -> None:
    """Refuse to continue in a folder of another origin.

    Raises:
        UserError: settings, files of the source, or versions of the decoders differ.
    """
    refuse_other_settings(folder, before.settings, now.settings)
    refuse_other_files(folder, before.fingerprint, now.fingerprint)
    if before.decoders != now.decoders:
        raise UserError(
            f"{folder.url} was started with {before.decoders} and {now.decoders} is installed now, which may decode "
            "to other pixels; install the same versions, remove the folder, or give another --out"
        )


def _flag(field: str) -> str:
    return _FLAGS.get(field, "--" + field.replace("_", "-"))


def _text(value: object) -> str:
    if value in (None, ()):
        return "not given"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def count_records(files: Iterable[str]) -> int:
    """How many shards are finished."""
    return sum(name.startswith(f"{UNFINISHED}/") and name.endswith(".tar.json") for name in files)


def finished_shards(folder: Folder, files: Mapping[str, int], tasks: Sequence[ShardTask]) -> dict[str, ShardResult]:
    """The results of the tasks whose shard and index are stored, by name of the shard."""
    results = {}
    for task in tasks:
        if record_name(task.name) in files:
            result = _read_record(folder, files, task.name)
            if result is not None:
                results[task.name] = result
    return results


def _read_record(folder: Folder, files: Mapping[str, int], shard: str) -> ShardResult | None:
    name = record_name(shard)
    try:
        result = parse(folder.read(name), ShardResult, where=f"{folder.url}/{name}", advice="remove it")
    except UserError:  # then the shard is made again
        return None
    if files.get(shard) != result.entry.bytes or index_name(shard) not in files:
        return None
    if isinstance(folder, LocalFolder) and xxhash.xxh3_64_hexdigest(folder.read(shard)) != result.entry.xxh3_64:
        return None  # a bucket checks uploads itself, and reading back may take as long as the job
    index = folder.read(index_name(shard))
    return result if xxhash.xxh3_64_hexdigest(index) == result.entry.index_xxh3_64 else None


def remove_temporary(folder: Folder, files: Mapping[str, int]) -> None:
    """Remove files that a killed process had not finished."""
    folder.remove([name for name in files if name.endswith(TEMPORARY_SUFFIX) and is_ours(name)])


def start_again(folder: Folder) -> None:
    """Remove what an earlier run has left, but the lock."""
    folder.remove([name for name in folder.files() if name.startswith(f"{UNFINISHED}/") and name != LOCK_NAME])


def remove_strays(folder: Folder, manifest: Manifest) -> None:
    """Remove shards that are not in the manifest, which an interrupted `--append` has left."""
    shards = {shard.name for split in manifest.splits.values() for shard in split.shards}
    known = shards | {index_name(name) for name in shards}
    folder.remove([name for name in folder.files() if _is_shard(name) and name not in known])


def remove_records(folder: Folder) -> None:
    """Remove everything that only an unfinished folder needs."""
    names = [name for name in folder.files() if name.startswith(f"{UNFINISHED}/")]
    folder.remove([*names, LOCK_NAME])  # even without the lock its folder may exist
