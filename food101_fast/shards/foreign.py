"""Indexes and a manifest for WebDataset tars of other programs, so that the loader reads them as they are.

The tars are not changed. Every image is decoded once, as prepare does, so that damaged ones are left out now and do not
stop a training run later. Images of any size are resized when they are read, to the pixels that prepare would have
stored.
"""

from __future__ import annotations

import functools
import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from io import BytesIO
from multiprocessing import get_context

import braceexpand
import numpy as np
import xxhash

from food101_fast.errors import UserError
from food101_fast.images import Rules
from food101_fast.processes import main_module_hidden
from food101_fast.resources import machine_advice
from food101_fast.shards.layout import (
    FOREIGN,
    INDEX_DTYPE,
    MANIFEST_NAME,
    NOTES_NAME,
    REJECTS_NAME,
    SOURCE_PREFIX,
    SPLITS,
    index_name,
)
from food101_fast.shards.manifest import Manifest, ShardEntry, SplitEntry, read_manifest
from food101_fast.shards.rejects import count, to_lines
from food101_fast.shards.scan import IMAGES, Found, Label, scan_tar
from food101_fast.storage import Folder, open_folder, readable, writing

_SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}

_ADVICE = "or copy or link the tars into another folder: an index is written beside its tar"


@dataclass(frozen=True, kw_only=True)
class _IndexedTar:
    """A tar whose index is written."""

    split: str
    found: Found
    labels: list[int]
    """Class number of each sample."""
    entry: ShardEntry


def write_index(
    patterns: Sequence[str],
    rules: Rules,
    *,
    split: str | None = None,
    label_field: str = "label",
    classes: Sequence[str] | None = None,
    workers: int = 1,
    progress: Callable[[int], None] = lambda samples: None,
) -> tuple[Folder, Manifest]:
    """Write an index for each tar, and the manifest last, into the folder of the tars.

    Args:
        patterns: paths or URLs of tars in one folder, with braces (`{000000..000009}`) and, on a disk, `*`.
        rules: the size that images are resized to, and which are accepted.
        split: of all tars; None reads it from their names.
        label_field: the field with the label, in samples with a `.json`.
        classes: class names, for labels that are numbers.
        workers: processes that decode.
        progress: called with the number of samples done since the last call.

    Raises:
        UserError: a tar is missing, truncated or damaged, the labels are inconsistent, or the folder can't be written.
    """
    folder, names = _find(patterns)
    splits = {name: split or _split_of(name) for name in names}
    _refuse_prepared(folder)
    found = []
    for of_tar in _scanned(folder, names, rules, label_field, workers):
        found.append(of_tar)
        progress(len(of_tar.spans) + len(of_tar.rejects))
    if not any(of_tar.spans for of_tar in found):
        reasons = Counter(reject.detail for of_tar in found for reject in of_tar.rejects)
        why = f" ({reasons.most_common(1)[0][0]})" if reasons else ""
        raise UserError(
            f"the tars in {folder.url} have no sample with an image and a label{why}; a sample needs one of "
            f"{', '.join(IMAGES)}, and a .cls or a .json with its label"
        )
    class_names, number_of = _number_classes(found, classes)
    tars = [_store(folder, of_tar, splits[of_tar.name], number_of) for of_tar in found]
    manifest = _manifest(patterns, rules, tars, class_names)
    _write(folder, REJECTS_NAME, to_lines(reject for of_tar in found for reject in of_tar.rejects))
    _write(folder, NOTES_NAME, to_lines(note for of_tar in found for note in of_tar.notes))
    _write(folder, MANIFEST_NAME, manifest.to_json())
    return folder, manifest


def _find(patterns: Sequence[str]) -> tuple[Folder, list[str]]:
    """The folder of all tars, and their names, in the given order."""
    tars: list[str] = []
    for pattern in patterns:
        for tar in _spelled_out(pattern):
            is_pattern = "://" not in tar and glob.has_magic(tar) and not os.path.exists(tar)
            matches = sorted(_matches(tar)) if is_pattern else [tar]
            if not matches:
                raise UserError(f"no file matches {tar}; correct the path or the pattern")
            tars += matches
    for tar in tars:
        if os.path.isdir(tar):
            raise UserError(f"{tar} is a folder; give its tars: '{os.path.join(tar, '*.tar')}'")
    parents = {os.path.dirname(tar) for tar in tars}
    if len(parents) != 1:
        raise UserError(
            f"the tars are in {len(parents)} folders, such as {' and '.join(sorted(parents)[:2])}; index each folder "
            "by itself"
        )
    names = [os.path.basename(tar) for tar in tars]
    if len(set(names)) != len(names):
        raise UserError("a tar is given twice; give each once")
    strange = next((name for name in names if readable(name) != name), None)
    if strange is not None:
        raise UserError(f"the name of {readable(strange)} is not UTF-8; rename the file")
    wrong = [name for name in names if not name.endswith(".tar")]
    if wrong:
        raise UserError(
            f"{wrong[0]} does not end in .tar; unpack compressed tars first, since samples are read by their position"
        )
    missing = next((tar for tar in tars if "://" not in tar and not os.path.exists(tar)), None)
    if missing is not None:
        raise UserError(f"there is no file {missing}; correct the path")
    return open_folder(parents.pop() or "."), names


def _spelled_out(pattern: str) -> Iterable[str]:
    """A path with braces as the paths that it stands for; a file or folder that exists stands for itself."""
    folder, name = "", pattern
    if "://" not in pattern:
        name = pattern = os.path.expanduser(pattern)
        if os.path.exists(pattern):
            return [pattern]
        if os.path.isdir(os.path.dirname(pattern)):
            folder, name = os.path.split(pattern)
    try:
        return [os.path.join(folder, spelled) for spelled in braceexpand.braceexpand(name)]
    except ValueError as error:
        raise UserError(f"{pattern} has a brace without its other one ({error}); correct the pattern") from error


def _matches(pattern: str) -> list[str]:
    """Files that match; in a folder that exists, only the file name is a pattern."""
    folder, name = os.path.split(pattern)
    return glob.glob(os.path.join(glob.escape(folder), name) if os.path.isdir(folder) else pattern)


def _split_of(name: str) -> str:
    words = re.split(r"[^a-z]+", name.lower().removesuffix(".tar"))
    splits = {_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS}
    if len(splits) != 1:
        raise UserError(
            f"the name of {name} does not say which split it belongs to; name the tars train-*.tar, val-*.tar and "
            "test-*.tar, or give --split if all belong to one"
        )
    return splits.pop()


def _refuse_prepared(folder: Folder) -> None:
    try:
        there = MANIFEST_NAME in folder.files()
    except OSError as error:
        advice = machine_advice(error) or "make it readable"
        raise UserError(f"{folder.url} can't be listed ({error.strerror or error}); {advice}") from error
    if there and not read_manifest(folder).source.startswith(SOURCE_PREFIX):
        raise UserError(f"{folder.url} was written by prepare and has an index already; give another folder of tars")


def _scanned(folder: Folder, names: list[str], rules: Rules, label_field: str, workers: int) -> Iterator[Found]:
    scan = functools.partial(scan_tar, folder, rules=rules, label_field=label_field)
    if workers == 1 or not folder.is_shared:
        yield from map(scan, names)
        return
    try:
        with ProcessPoolExecutor(min(workers, len(names)), get_context("spawn")) as pool:
            with main_module_hidden():
                results = pool.map(scan, names)
            yield from results
    except BrokenProcessPool as error:
        raise UserError("a worker process was killed, most likely out of memory; try fewer --workers") from error


def _number_classes(found: Sequence[Found], names: Sequence[str] | None) -> tuple[tuple[str, ...], dict[Label, int]]:
    """Class names, and the class number of each label."""
    labels = {label for of_tar in found for label in of_tar.labels}
    texts = sorted(label for label in labels if isinstance(label, str))
    numbers = sorted(label for label in labels if isinstance(label, int))
    if texts and numbers:
        raise UserError(f"some labels are numbers ({numbers[0]}) and some are text ({texts[0]!r}); make them alike")
    if texts:
        known = tuple(names or texts)
        if unknown := sorted(set(texts) - set(known)):
            raise UserError(f"the label {unknown[0]!r} is not among the {len(known)} names of --classes; add it there")
        return known, {name: number for number, name in enumerate(known)}
    classes = len(names) if names else numbers[-1] + 1
    if numbers[0] < 0 or numbers[-1] >= classes:
        raise UserError(
            f"labels go from {numbers[0]} to {numbers[-1]} and should be from 0 to {classes - 1}, for "
            f"{classes} classes; correct --classes or the labels"
        )
    return tuple(names or map(str, range(classes))), {number: number for number in numbers}


def _store(folder: Folder, found: Found, split: str, number_of: Mapping[Label, int]) -> _IndexedTar:
    labels = [number_of[label] for label in found.labels]
    rows = [(*span[:2], label, span[2]) for span, label in zip(found.spans, labels, strict=True)]
    stream = BytesIO()
    np.save(stream, np.array(rows, INDEX_DTYPE), allow_pickle=False)
    _write(folder, index_name(found.name), stream.getvalue())
    entry = ShardEntry(
        name=found.name,
        samples=len(rows),
        bytes=found.bytes,
        xxh3_64=found.xxh3_64,
        index_xxh3_64=xxhash.xxh3_64_hexdigest(stream.getvalue()),
    )
    return _IndexedTar(split=split, found=found, labels=labels, entry=entry)


def _write(folder: Folder, name: str, content: bytes) -> None:
    with writing(f"{folder.url}/{name}", _ADVICE):
        folder.write(name, content)


def _manifest(patterns: Sequence[str], rules: Rules, tars: Sequence[_IndexedTar], classes: tuple[str, ...]) -> Manifest:
    splits: dict[str, SplitEntry] = {}
    for split in SPLITS:
        of_split = [tar for tar in tars if tar.split == split]
        labels = [label for tar in of_split for label in tar.labels]
        if labels:
            splits[split] = SplitEntry(
                samples=len(labels),
                class_counts=tuple(np.bincount(labels, minlength=len(classes)).tolist()),
                shards=tuple(tar.entry for tar in of_split),
            )
    shares = [splits[split].samples if split in splits else 0 for split in SPLITS]
    rejects = count(reject.reason for tar in tars for reject in tar.found.rejects)
    return Manifest(
        classes=classes,
        image_size=rules.size,
        encoding="raw" if all(tar.found.raw for tar in tars) else FOREIGN,
        quality=None,
        fit=rules.fit,
        check=rules.check,
        min_side=rules.min_side,
        max_pixels=rules.max_pixels,
        duplicates="keep",
        samples_per_shard=max(tar.entry.samples for tar in tars),
        limit=None,
        seed=0,
        fractions=(shares[0] / sum(shares), shares[1] / sum(shares), shares[2] / sum(shares)),
        source=SOURCE_PREFIX + " ".join(map(os.path.basename, patterns)),
        fingerprint=xxhash.xxh3_64_hexdigest("".join(tar.entry.xxh3_64 for tar in tars).encode()),
        read=sum(shares) + sum(rejects.values()),
        rejects=rejects,
        notes=count(note.note for tar in tars for note in tar.found.notes),
        splits=splits,
    )
