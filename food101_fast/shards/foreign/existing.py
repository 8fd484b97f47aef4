"""Index files of an earlier run: kept, unless they are to be replaced."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable

from food101_fast.errors import UserError
from food101_fast.resources import machine_advice
from food101_fast.shards.foreign.find import Tars
from food101_fast.shards.layout import MANIFEST_NAME, SOURCE_PREFIX, index_name, val_index_name
from food101_fast.shards.manifest import read_manifest
from food101_fast.storage import Folder, LocalFolder, open_folder, writing


def check_existing(tars: Tars, *, replace: bool) -> None:
    """Refuse tars that have an index already.

    Args:
        tars: to index.
        replace: whether an earlier index of the same folder may be replaced.

    Raises:
        UserError: there is an index, or prepare wrote the tars.
    """
    folder = tars.folder
    parents = dict.fromkeys(posixpath.dirname(name) for name in tars.splits)
    manifests = _that_exist(folder, [posixpath.join(parent, MANIFEST_NAME) for parent in ["", *parents]])
    for manifest in manifests:
        parent = posixpath.dirname(manifest)
        of_parent = open_folder(f"{folder.url}/{parent}") if parent else folder
        if not read_manifest(of_parent).source.startswith(SOURCE_PREFIX):
            raise UserError(
                f"{of_parent.url} was written by prepare and has an index already; give another folder of tars"
            )
        if parent:
            raise UserError(
                f"{of_parent.url} has an index of its own, which would be overwritten; remove its {MANIFEST_NAME} first"
            )
    if not replace and (there := _that_exist(folder, [MANIFEST_NAME, *_index_names(tars)])):
        raise UserError(
            f"{folder.url}/{there[0]} is from an earlier index, which is kept; give --replace to write it again"
        )


def remove_existing(tars: Tars) -> None:
    """Remove the manifest of an earlier index, then its index files: a folder with a manifest is always complete."""
    for names in ([MANIFEST_NAME], _index_names(tars)):
        with writing(f"{tars.folder.url}/{names[0]}"):
            tars.folder.remove(_that_exist(tars.folder, names))


def _index_names(tars: Tars) -> list[str]:
    return [name for tar in tars.splits for name in (index_name(tar), val_index_name(tar))]


def _that_exist(folder: Folder, names: Iterable[str]) -> list[str]:
    try:
        if isinstance(folder, LocalFolder):  # the folder above several may have much else
            return [name for name in dict.fromkeys(names) if (folder.path / name).exists()]
        files = folder.files()
    except OSError as error:
        advice = machine_advice(error) or "make it readable"
        raise UserError(f"{folder.url} can't be listed ({error.strerror or error}); {advice}") from error
    return [name for name in dict.fromkeys(names) if name in files]
