"""`--append`: new files of the source join a finished folder as new shards; what is there stays as it is.

A file is known by its key in the shards, or by its name in `rejects.jsonl`. New images are split so that each class
comes as near to the shares of the splits as the images that are there allow.
"""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from typing import TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray

from food101_fast.documents import parse
from food101_fast.errors import UserError
from food101_fast.prepare.cut import Cut
from food101_fast.prepare.duplicates import drop_duplicates
from food101_fast.prepare.executors import Executor
from food101_fast.prepare.given import groups_of, keep_splits, mixed_splits
from food101_fast.prepare.plan import Contents, Plan, fingerprint_of, hash_files, in_no_split
from food101_fast.prepare.selection import listed
from food101_fast.prepare.settings import PrepareSettings
from food101_fast.prepare.sources import Source
from food101_fast.shards.layout import NOTES_NAME, REJECTS_NAME, SPLITS, base_keys, unique_key
from food101_fast.shards.manifest import Earlier, Manifest, SplitEntry
from food101_fast.shards.rejects import DUPLICATE, LABEL_CONFLICT, NotedImage, Reject
from food101_fast.storage import Folder, LocalFolder

_LABEL_SUFFIX = ".cls"

Line = TypeVar("Line", Reject, NotedImage)


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What a finished folder has."""

    manifest: Manifest
    split_of: Mapping[str, str]
    """Split of each sample, by its key."""
    rejects: tuple[Reject, ...]
    notes: tuple[NotedImage, ...]


def read_stored(folder: Folder, manifest: Manifest) -> Stored:
    """The keys, rejects and notes of a finished folder.

    Raises:
        OSError: a file can't be read.
        UserError: a list is damaged.
    """
    split_of = {
        key: name
        for name, split in manifest.splits.items()
        for shard in split.shards
        for key in _keys(folder, shard.name)
    }
    return Stored(
        manifest=manifest,
        split_of=split_of,
        rejects=_lines(folder, REJECTS_NAME, Reject, manifest.advice),
        notes=_lines(folder, NOTES_NAME, NotedImage, manifest.advice),
    )


def _keys(folder: Folder, shard: str) -> Iterator[str]:
    local = folder.path / shard if isinstance(folder, LocalFolder) else None
    with tarfile.open(local, fileobj=None if local is not None else BytesIO(folder.read(shard))) as tar:
        for member in tar:
            if member.name.endswith(_LABEL_SUFFIX):
                yield member.name.removesuffix(_LABEL_SUFFIX)


def _lines(folder: Folder, name: str, kind: type[Line], advice: str) -> tuple[Line, ...]:
    where = f"{folder.url}/{name}"
    return tuple(parse(line, kind, where=where, advice=advice) for line in folder.read(name).splitlines())


def plan_append(source: Source, settings: PrepareSettings, executor: Executor, stored: Stored) -> Plan:
    """Decide which of the source's files are new, and which of them goes into which new shard.

    Returns:
        A plan of the new shards and the new rejects; without tasks and rejects if nothing is new.

    Raises:
        UserError: the source can't be read, has a class that the folder does not have, or files that can't be told
            from those in the folder.
    """
    classes = stored.manifest.classes
    labels = _labels(source, classes, stored)
    known = np.flatnonzero(labels >= 0)
    names = source.names
    bases = dict(
        zip(known.tolist(), base_keys(classes, labels[known], [names[i] for i in known.tolist()]), strict=True)
    )
    key_of = _stored_keys(source, bases, stored)
    new = np.array([position for position in known.tolist() if position not in key_of], np.int64)
    keys = _new_keys(bases, key_of, stored, source.labels.size)
    given = keep_splits(source, settings)
    before = {(reject.key, reject.reason) for reject in stored.rejects}
    rejects = [
        reject
        for reject in (*source.rejects, *in_no_split(source, keys, given))
        if (reject.key, reject.reason) not in before
    ]
    if given is not None:
        new = new[given.numbers[new] >= 0]
    hashes: dict[int, int] | None = None
    notes: list[NotedImage] = []
    if settings.duplicates == "drop" and new.size:
        hashes = hash_files(source, np.sort(np.array([*key_of, *new.tolist()], np.int64)), executor)
        new, copies = _drop_stored(source, labels, keys, new, key_of, hashes)
        numbers = None if given is None else given.numbers
        new, duplicates, notes = drop_duplicates(source, keys, new, hashes, settings.rules, numbers)
        rejects += [*copies, *duplicates]
    groups = groups_of(source, settings.group_by)
    cut = Cut(classes=classes, labels=labels, given=given, groups=groups, settings=settings, file=source.file)
    splits = _split(cut, new, stored.manifest, _split_of_files(key_of, stored, groups))
    first = {name: len(split.shards) for name, split in stored.manifest.splits.items()}
    shards = Contents(labels=labels, keys=keys, hashes=hashes, most=settings.samples_per_shard)
    digest = xxhash.xxh3_64_hexdigest(f"{stored.manifest.fingerprint} {fingerprint_of(source, given, groups)}".encode())
    return Plan(
        tasks=shards.tasks(splits, first),
        rejects=tuple(rejects),
        notes=tuple(notes),
        keys=keys,
        fingerprint=digest,
        classes=classes,
        left_out=stored.manifest.left_out,
        given_splits=stored.manifest.given_splits,
        groups=groups,
        mixed=mixed_splits(source, settings),
    )


def _labels(source: Source, classes: tuple[str, ...], stored: Stored) -> NDArray[np.int64]:
    """(N,) label in the folder of each file of the source; -1 for those of classes that were left out."""
    label_of = {name: label for label, name in enumerate(classes)}
    counts = np.bincount(source.labels, minlength=len(source.classes))
    new = [
        name
        for name, count in zip(source.classes, counts.tolist(), strict=True)
        if count and name not in label_of and name not in stored.manifest.left_out
    ]
    if new:
        raise UserError(
            f"the source has {len(new)} classes that the folder does not have ({listed(new)}), and --append keeps the "
            "classes; leave them out with --exclude-classes in a new folder, or prepare everything again"
        )
    return np.array([label_of.get(name, -1) for name in source.classes], np.int64)[source.labels]


def _stored_keys(source: Source, bases: Mapping[int, str], stored: Stored) -> dict[int, str]:
    """The key in the folder of each file of the source that is in it, or was dropped."""
    rejected = {reject.file: reject.key for reject in stored.rejects}
    found = {position: rejected[source.file(position)] for position in bases if source.file(position) in rejected}
    same: dict[str, list[int]] = {}
    for position, base in bases.items():
        if position not in found:
            same.setdefault(base, []).append(position)
    stored_keys: dict[str, list[str]] = {}
    for key in stored.split_of:
        stored_keys.setdefault(key if key in same else _without_number(key), []).append(key)
    for base, positions in same.items():
        keys = stored_keys.get(base, [])
        if 0 < len(keys) < len(positions):
            named = ", ".join(source.file(position) for position in positions)
            raise UserError(
                f"the names of {named} are too much alike to tell which of them the folder has; rename the new ones"
            )
        found.update(zip(positions, keys, strict=False))
    return found


def _without_number(key: str) -> str:
    """The key before equal ones were told apart by `-` and a number, if they were."""
    base, dash, number = key.rpartition("-")
    return base if dash and number.isdigit() else key


def _new_keys(bases: Mapping[int, str], key_of: Mapping[int, str], stored: Stored, count: int) -> list[str]:
    """A key for each file of the source, which for new files is none of those in the folder."""
    keys = [f"{position}" for position in range(count)]  # of files that are not used
    taken = {key.lower() for key in (*stored.split_of, *(reject.key for reject in stored.rejects))}
    for position, base in bases.items():
        keys[position] = key_of[position] if position in key_of else unique_key(base, position, taken)
    return keys


def _drop_stored(
    source: Source,
    labels: NDArray[np.int64],
    keys: Sequence[str],
    new: NDArray[np.int64],
    key_of: Mapping[int, str],
    hashes: Mapping[int, int],
) -> tuple[NDArray[np.int64], list[Reject]]:
    """Drop new files that are the same as one that the folder has, or has dropped."""
    stored = {hashes[position]: position for position in sorted(key_of, reverse=True)}
    rejects = []
    for position in new.tolist():
        other = stored.get(hashes[position])
        if other is not None:
            reason = DUPLICATE if labels[position] == labels[other] else LABEL_CONFLICT
            detail = f"the same as {source.file(other)}"
            rejects.append(Reject(key=keys[position], file=source.file(position), reason=reason, detail=detail))
    kept = np.array([position for position in new.tolist() if hashes[position] not in stored], np.int64)
    return kept, rejects


def _split(
    cut: Cut, new: NDArray[np.int64], manifest: Manifest, split_of: Mapping[int, str]
) -> dict[str, NDArray[np.int64]]:
    """The split of each new file: the source's, that of its group, or the one that lacks most of the class.

    Args:
        cut: shares, groups and the source's splits.
        new: (n,) int64, positions of the new files.
        manifest: of the folder.
        split_of: split of the files that the folder has, by position.
    """
    shares = np.array(list(cut.shares.values()))
    names = list(cut.shares)
    none = np.zeros(len(cut.classes))
    counts = np.array([manifest.splits[name].class_counts if name in manifest.splits else none for name in names])
    of_group = {} if cut.groups is None else {int(cut.groups[i]): name for i, name in split_of.items()}
    chosen: dict[str, list[int]] = {name: [] for name in SPLITS}
    for position in np.random.default_rng(cut.settings.seed).permutation(new).tolist():
        label = cut.labels[position]
        given = "train" if cut.given is None else SPLITS[cut.given.numbers[position]]
        name = given if given != "train" else of_group.get(_group(cut, position), "")
        if not name:
            lacking = shares * (counts[:, label].sum() + 1) - counts[:, label]
            name = names[int(lacking.argmax())]
            of_group[_group(cut, position)] = name
        if name in names:
            counts[names.index(name), label] += 1
        chosen[name].append(position)
    return {name: np.array(positions, np.int64) for name, positions in chosen.items() if positions}


def _split_of_files(key_of: Mapping[int, str], stored: Stored, groups: NDArray[np.int64] | None) -> dict[int, str]:
    """Split of each file of the source that the folder has."""
    split_of = {position: stored.split_of[key] for position, key in key_of.items() if key in stored.split_of}
    missing = len(stored.split_of) - len(split_of)
    if groups is not None and missing:
        raise UserError(
            f"the source no longer has {missing} images of the folder, whose groups are therefore unknown; bring them "
            "back, or prepare everything again"
        )
    return split_of


def _group(cut: Cut, position: int) -> int:
    """The group of a file; without groups each file is one."""
    return position if cut.groups is None else int(cut.groups[position])


def joined(before: Manifest, added: Manifest) -> Manifest:
    """The manifest of a folder and of what was appended to it."""
    splits = {
        name: _joined_split(before.splits.get(name), added.splits.get(name), len(before.classes))
        for name in SPLITS
        if name in before.splits or name in added.splits
    }
    samples = sum(split.samples for split in before.splits.values())
    return replace(
        added,
        read=before.read + added.read,
        rejects=dict(sorted((Counter(before.rejects) + Counter(added.rejects)).items())),
        notes=dict(sorted((Counter(before.notes) + Counter(added.notes)).items())),
        splits=splits,
        mixed_splits=_joined_counts(before.mixed_splits, added.mixed_splits),
        lineage=(*before.lineage, Earlier(digest=before.digest, samples=samples)),
    )


def _joined_counts(
    before: Mapping[str, Mapping[str, int]], added: Mapping[str, Mapping[str, int]]
) -> dict[str, dict[str, int]]:
    return {
        name: dict(Counter(before.get(name, {})) + Counter(added.get(name, {})))
        for name in dict.fromkeys([*before, *added])
    }


def _joined_split(before: SplitEntry | None, added: SplitEntry | None, classes: int) -> SplitEntry:
    entries = [entry for entry in (before, added) if entry is not None]
    counts = np.sum([entry.class_counts for entry in entries], axis=0)
    assert counts.size == classes
    return SplitEntry(
        samples=sum(entry.samples for entry in entries),
        class_counts=tuple(counts.tolist()),
        shards=tuple(shard for entry in entries for shard in entry.shards),
    )
