"""Write the index of each tar, the lists of rejects and notes, and the manifest last."""

from __future__ import annotations

import functools
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from io import BytesIO
from multiprocessing import get_context

import numpy as np
import xxhash
from numpy.typing import NDArray

from food101_fast.errors import UserError
from food101_fast.images import Rules
from food101_fast.processes import main_module_hidden
from food101_fast.shards.foreign.cut import cut_val
from food101_fast.shards.foreign.existing import check_existing, remove_existing
from food101_fast.shards.foreign.find import Tars, find_tars
from food101_fast.shards.foreign.labels import Label, number_classes
from food101_fast.shards.foreign.losses import check_losses
from food101_fast.shards.foreign.options import IndexOptions
from food101_fast.shards.foreign.scan import Found, scan_tar
from food101_fast.shards.layout import (
    FOREIGN,
    INDEX_DTYPE,
    MANIFEST_NAME,
    NOTES_NAME,
    REJECTS_NAME,
    SOURCE_PREFIX,
    SPLITS,
    val_index_name,
)
from food101_fast.shards.manifest import Manifest, ShardEntry, SplitEntry
from food101_fast.shards.rejects import NotedImage, count, to_lines
from food101_fast.storage import Folder, writing

_ADVICE = "or copy or link the tars into another folder: an index is written beside its tar"


@dataclass(frozen=True, kw_only=True)
class _Index:
    """The index of the samples that a tar gives to a split."""

    split: str
    labels: NDArray[np.int64]
    """(N,) class number of each sample."""
    entry: ShardEntry
    content: bytes
    """Of the index file."""


def write_index(
    patterns: Sequence[str],
    rules: Rules,
    options: IndexOptions | None = None,
    *,
    classes: Sequence[str] | None = None,
    workers: int = 1,
    progress: Callable[[int], None] = lambda samples: None,
) -> tuple[Folder, Manifest]:
    """Write an index beside each tar, and the manifest last, into the folder that has all tars.

    Args:
        patterns: paths or URLs of tars, with braces (`{000000..000009}`) and, on a disk, `~` and `*`. If the tars are
            in several folders, the manifest is written into the nearest folder above these.
        rules: the size that images are resized to, and which are accepted.
        options: how the tars are read and split.
        classes: class names, for labels that are numbers.
        workers: processes that decode.
        progress: called with the number of samples done since the last call.

    Returns:
        The folder of the manifest, and the manifest.

    Raises:
        UserError: a tar is missing, truncated or damaged, too many images would be lost, the labels are inconsistent,
            there is an index already, or the folder can't be written.
    """
    options = options or IndexOptions()
    tars = find_tars(patterns, options.split)
    check_existing(tars, replace=options.replace)
    found = []
    for of_tar in _scanned(tars, rules, options, workers):
        found.append(of_tar)
        progress(len(of_tar.spans) + len(of_tar.rejects))
    check_losses(tars, found, options)
    class_names, number_of = number_classes(
        [label for of_tar in found for label in of_tar.labels],
        classes,
        [file for of_tar in found for file in of_tar.files],
    )
    indexes = _indexes(found, tars.splits, number_of, options)
    notes = [note for of_tar in found for note in of_tar.notes] + _in_two_splits(found, tars.splits)
    manifest = _manifest(patterns, rules, options, found, indexes, notes, class_names)
    remove_existing(tars)
    for index in indexes:
        _write(tars.folder, index.entry.index_path, index.content)
    _write(tars.folder, REJECTS_NAME, to_lines(reject for of_tar in found for reject in of_tar.rejects))
    _write(tars.folder, NOTES_NAME, to_lines(notes))
    _write(tars.folder, MANIFEST_NAME, manifest.to_json())
    return tars.folder, manifest


def _scanned(tars: Tars, rules: Rules, options: IndexOptions, workers: int) -> Iterator[Found]:
    scan = functools.partial(scan_tar, tars.folder, rules=rules, options=options)
    if workers == 1 or not tars.folder.is_shared:
        yield from map(scan, tars.splits)
        return
    try:
        with ProcessPoolExecutor(min(workers, len(tars.splits)), get_context("spawn")) as pool:
            with main_module_hidden():
                results = pool.map(scan, tars.splits)
            yield from results
    except BrokenProcessPool as error:
        raise UserError("a worker process was killed, most likely out of memory; try fewer --workers") from error


def _in_two_splits(found: Sequence[Found], splits: Mapping[str, str]) -> list[NotedImage]:
    """Notes about images of train that val or test has too, and images of val that test has too."""
    notes = []
    seen: dict[int, tuple[str, str]] = {}
    for split in reversed(SPLITS):
        new: dict[int, tuple[str, str]] = {}
        for of_tar in found:
            if splits[of_tar.name] != split:
                continue
            for (*_, digest), key, file in zip(of_tar.spans, of_tar.keys, of_tar.files, strict=True):
                new.setdefault(digest, (split, file))
                if digest in seen:
                    other, copy = seen[digest]
                    notes.append(NotedImage(key=key, file=file, note=f"also-in-{other}", detail=f"the bytes of {copy}"))
        seen = new | seen
    return notes


def _indexes(
    found: Sequence[Found], splits: Mapping[str, str], number_of: Mapping[Label, int], options: IndexOptions
) -> list[_Index]:
    """The index of each tar, or of each split of a tar if val is cut from train."""
    labels = {of_tar.name: np.array([number_of[label] for label in of_tar.labels], np.int64) for of_tar in found}
    if options.val_fraction is None:
        return [_index(of_tar, splits[of_tar.name], labels[of_tar.name]) for of_tar in found]
    if "val" in splits.values() or "train" not in splits.values():
        has = ", ".join(sorted(set(splits.values())))
        raise UserError(
            f"--val-fraction cuts val from train, and the tars are {has}; leave it out, or leave out the tars of val"
        )
    train = [of_tar for of_tar in found if splits[of_tar.name] == "train"]
    is_val = cut_val(
        np.concatenate([labels[of_tar.name] for of_tar in train]),
        np.array([digest for of_tar in train for *_, digest in of_tar.spans], np.uint64),
        fraction=options.val_fraction,
        seed=options.seed,
    )
    indexes, start = [], 0
    for of_tar in found:
        of_labels = labels[of_tar.name]
        if splits[of_tar.name] != "train":
            indexes.append(_index(of_tar, splits[of_tar.name], of_labels))
            continue
        in_val = is_val[start : start + of_labels.size]
        start += of_labels.size
        indexes.append(_index(of_tar, "train", of_labels, ~in_val))
        if in_val.any():
            indexes.append(
                _index(of_tar, "val", of_labels, in_val, name=posixpath.basename(val_index_name(of_tar.name)))
            )
    return indexes


def _index(
    found: Found,
    split: str,
    labels: NDArray[np.int64],
    chosen: NDArray[np.bool_] | None = None,
    *,
    name: str | None = None,
) -> _Index:
    rows = np.array(
        [(*span[:2], label, span[2]) for span, label in zip(found.spans, labels.tolist(), strict=True)], INDEX_DTYPE
    )
    if chosen is not None:
        rows = rows[chosen]
    stream = BytesIO()
    np.save(stream, rows, allow_pickle=False)
    content = stream.getvalue()
    entry = ShardEntry(
        name=found.name,
        samples=len(rows),
        bytes=found.bytes,
        xxh3_64=found.xxh3_64,
        index_xxh3_64=xxhash.xxh3_64_hexdigest(content),
        index=name,
    )
    return _Index(split=split, labels=rows["label"], entry=entry, content=content)


def _write(folder: Folder, name: str, content: bytes) -> None:
    with writing(f"{folder.url}/{name}", _ADVICE):
        folder.write(name, content)


def _manifest(
    patterns: Sequence[str],
    rules: Rules,
    options: IndexOptions,
    found: Sequence[Found],
    indexes: Sequence[_Index],
    notes: Sequence[NotedImage],
    classes: tuple[str, ...],
) -> Manifest:
    splits: dict[str, SplitEntry] = {}
    for split in SPLITS:
        of_split = [index for index in indexes if index.split == split]
        samples = sum(index.entry.samples for index in of_split)
        if samples:
            labels = np.concatenate([index.labels for index in of_split])
            splits[split] = SplitEntry(
                samples=samples,
                class_counts=tuple(np.bincount(labels, minlength=len(classes)).tolist()),
                shards=tuple(index.entry for index in of_split),
            )
    shares = [splits[split].samples if split in splits else 0 for split in SPLITS]
    rejects = count(reject.reason for of_tar in found for reject in of_tar.rejects)
    return Manifest(
        classes=classes,
        image_size=rules.size,
        encoding="raw" if all(of_tar.raw for of_tar in found) else FOREIGN,
        quality=None,
        fit=rules.fit,
        decode=rules.decode,
        check=rules.check,
        min_side=rules.min_side,
        max_pixels=rules.max_pixels,
        duplicates="keep",
        samples_per_shard=max(index.entry.samples for index in indexes),
        limit=None,
        seed=options.seed,
        fractions=(shares[0] / sum(shares), shares[1] / sum(shares), shares[2] / sum(shares)),
        source=SOURCE_PREFIX + " ".join(map(posixpath.basename, patterns)),
        split_by="source",
        val_fraction=options.val_fraction or 0.0,
        fingerprint=xxhash.xxh3_64_hexdigest("".join(of_tar.xxh3_64 for of_tar in found).encode()),
        read=sum(shares) + sum(rejects.values()),
        rejects=rejects,
        notes=count(note.note for note in notes),
        splits=splits,
    )
