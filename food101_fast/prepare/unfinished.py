"""What an interrupted run leaves behind, so that the next one with the same settings goes on where it ended.

While a folder is unfinished, its subfolder `.unfinished` holds the settings, a lock, and a record for each shard that
is stored. It goes when the manifest is in place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson
import xxhash

from food101_fast.errors import UserError
from food101_fast.prepare.records import UNFINISHED, ShardResult, ShardTask, record_name
from food101_fast.shards.layout import MANIFEST_NAME, NOTES_NAME, OVERVIEW_NAMES, REJECTS_NAME, SPLITS, index_name
from food101_fast.storage import TEMPORARY_SUFFIX, Folder, LocalFolder

LOCK_NAME = f"{UNFINISHED}/lock"
SOURCE_FILES = "what the source holds"
_SETTINGS_NAME = f"{UNFINISHED}/settings.json"


def is_ours(name: str) -> bool:
    """Whether prepare may have written this file."""
    if name.endswith(TEMPORARY_SUFFIX):
        name = name.removesuffix(TEMPORARY_SUFFIX).rpartition(".")[0]
    known = (MANIFEST_NAME, REJECTS_NAME, NOTES_NAME, *OVERVIEW_NAMES)
    return name in known or name.startswith(f"{UNFINISHED}/") or _is_shard(name)


def _is_shard(name: str) -> bool:
    return name.startswith(tuple(f"{split}-" for split in SPLITS)) and name.endswith((".tar", ".index.npy"))


def read_settings(folder: Folder, files: Mapping[str, int]) -> dict[str, Any] | None:
    """The settings that an unfinished folder was begun with; None where nothing was begun.

    Raises:
        UserError: there are shards, but no record of their settings.
    """
    if _SETTINGS_NAME in files:
        try:
            settings = orjson.loads(folder.read(_SETTINGS_NAME))
        except ValueError:
            settings = None
        if isinstance(settings, dict):
            return settings
    elif not any(_is_shard(name) for name in files):
        return None
    raise UserError(
        f"{folder.url} holds shards, but neither a manifest nor a record of the settings they were made with; "
        "remove them or give another --out"
    )


def write_settings(folder: Folder, settings: Mapping[str, Any]) -> None:
    """Begin a folder."""
    folder.write(_SETTINGS_NAME, orjson.dumps(settings))


def refuse_other_settings(folder: Folder, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Refuse to go on in a folder that was begun with other settings.

    Args:
        folder: for the message.
        there: the settings it was begun with.
        here: those asked for now; only what is in both is compared.

    Raises:
        UserError: some differ; the message says which.
    """
    known = orjson.loads(orjson.dumps(here))  # as JSON has them: tuples become lists
    different = [name for name in known if name in there and there[name] != known[name]]
    if different == [SOURCE_FILES]:
        raise UserError(
            f"the source has changed since {folder.url} was begun: other files, names or contents; remove the folder "
            "and prepare it again, or give another --out"
        )
    if different:
        listed = "; ".join(f"{name} is {_shown(there[name])} there and {_shown(known[name])} now" for name in different)
        raise UserError(
            f"{folder.url} was begun with other settings ({listed}); use the same ones, remove the folder, "
            "or give another --out"
        )


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def count_records(files: Iterable[str]) -> int:
    """How many shards are stored whole."""
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
    try:
        result = ShardResult.from_json(folder.read(record_name(shard)))
    except (ValueError, TypeError, KeyError):
        return None
    if files.get(shard) != result.entry.bytes or index_name(shard) not in files:
        return None
    if isinstance(folder, LocalFolder) and xxhash.xxh3_64_hexdigest(folder.read(shard)) != result.entry.xxh3_64:
        return None  # a bucket compares what it is sent by itself, and to read it back may take as long as the job
    index = folder.read(index_name(shard))
    return result if xxhash.xxh3_64_hexdigest(index) == result.entry.index_xxh3_64 else None


def remove_temporary(folder: Folder, files: Mapping[str, int]) -> None:
    """Remove what a killed process was writing."""
    folder.remove([name for name in files if name.endswith(TEMPORARY_SUFFIX) and is_ours(name)])


def remove_records(folder: Folder) -> None:
    """Remove everything that only an unfinished folder needs."""
    names = [name for name in folder.files() if name.startswith(f"{UNFINISHED}/")]
    folder.remove([*names, LOCK_NAME])  # even if the lock is gone, its folder may be there
