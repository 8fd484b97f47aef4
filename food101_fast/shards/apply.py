"""Shards with overlays applied, as new shards: rows are copied, and nothing is decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import xxhash

from food101_fast.errors import UserError
from food101_fast.shards.layout import ENCODINGS, NOTES_NAME, REJECTS_NAME, SOURCE_PREFIX, index_name, shard_name
from food101_fast.shards.manifest import Manifest, ShardEntry, write_manifest
from food101_fast.shards.overlay import read_overlay
from food101_fast.shards.reader import ShardSet
from food101_fast.shards.rejects import OVERLAY, Reject, count, read_notes, read_rejects, to_lines
from food101_fast.shards.split import Split
from food101_fast.shards.tar import ShardTar, entry_of, index_content
from food101_fast.storage import Folder, open_folder, writing

_ADVICE = "or give another --out"


def apply_overlays(shards: ShardSet, out: str, progress: Callable[[int], None] = lambda samples: None) -> Manifest:
    """Write a data set with its overlays applied as shards of their own. One shard at a time is in memory.

    The samples that are left out are listed in `rejects.jsonl`, with the reason `overlay`. The manifest is written
    last, so a folder that has one is complete.

    Args:
        shards: opened with overlays.
        out: folder for the new shards, a path or a URL; empty, or not there yet.
        progress: called with the number of samples written since the last call.

    Raises:
        UserError: there are no overlays, another program wrote the tars, `out` is not empty or can't be written, or a
            shard can't be read.
        DamagedDataError: a sample is not what was written.
    """
    target = checked_target(shards, out)
    try:
        with writing(out, _ADVICE):
            return _write(shards, target, progress)
    except BaseException:
        target.remove(target.files())
        raise


def checked_target(shards: ShardSet, out: str) -> Folder:
    """The folder for the new shards of `apply_overlays`.

    Raises:
        UserError: there are no overlays, another program wrote the tars, or `out` is not empty.
    """
    if not shards.overlays:
        raise UserError("there is no overlay to apply; give one to --overlay")
    if shards.stored.source.startswith(SOURCE_PREFIX):
        raise UserError(
            f"{shards.location} has tars of another program, and these are not written again; train with --overlay, or "
            "prepare the images"
        )
    target = open_folder(out)
    if target.exists() and target.files():
        raise UserError(f"the folder {out} is not empty; give another one to --out")
    return target


def _write(shards: ShardSet, target: Folder, progress: Callable[[int], None]) -> Manifest:
    splits = {
        name: replace(entry, shards=tuple(_copied(shards.split(name, verify="always"), shards, target, progress)))
        for name, entry in shards.manifest.splits.items()
    }
    dropped = {reject.key: reject for reject in _left_out(shards)}
    rejects = [*read_rejects(shards.folder), *dropped.values()]
    notes = [note for note in read_notes(shards.folder) if note.key not in dropped]
    target.write(REJECTS_NAME, to_lines(rejects))
    target.write(NOTES_NAME, to_lines(notes))
    applied = " ".join([shards.stored.fingerprint, *shards.manifest.overlays])
    manifest = replace(
        shards.manifest,
        splits=splits,
        lineage=(),
        rejects=count(reject.reason for reject in rejects),
        notes=count(note.note for note in notes),
        fingerprint=xxhash.xxh3_64_hexdigest(applied.encode()),
    )
    write_manifest(manifest, target)
    return manifest


def _copied(split: Split, shards: ShardSet, target: Folder, progress: Callable[[int], None]) -> Iterator[ShardEntry]:
    """Write the samples that are left of each shard; yields the new shards."""
    suffix = ENCODINGS[shards.stored.encoding]
    memory = bytearray()
    ends = np.cumsum(split.shard_samples)
    for number, (end, samples) in enumerate(zip(ends.tolist(), split.shard_samples.tolist(), strict=True)):
        ids = np.arange(end - samples, end)
        files, labels = split.payloads(ids)
        tar = ShardTar(suffix, memory)
        for sample, file, label in zip(ids.tolist(), files, labels.tolist(), strict=True):
            tar.add(split.key(sample), label, [memoryview(file.numpy())])  # type: ignore[arg-type]
        content, rows = tar.finish()
        name, index = shard_name(split.name, number), index_content(rows)
        with content:
            entry = entry_of(name, content, index, samples)
            target.write(name, content)
        target.write(index_name(name), index)
        progress(samples)
        yield entry


def _left_out(shards: ShardSet) -> Iterator[Reject]:
    """A reject for each sample that the overlays leave out."""
    reasons = {
        (one.split, one.id): one.reason for location in shards.overlays for one in read_overlay(location).decisions
    }
    stored = shards.overlaid(())
    for name, changes in shards.changes.items():
        split = stored.split(name)
        for sample in np.setdiff1d(np.arange(len(split)), changes.kept).tolist():
            key = split.key(sample)
            detail = reasons.get((name, sample)) or "an overlay left it out"
            yield Reject(key=key, file=key, reason=OVERLAY, detail=detail)
