"""Samples of a WebDataset tar that another program wrote, each decoded once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import xxhash

from food101_fast.errors import UserError
from food101_fast.images import RejectedError, Rules, Scratch, clean
from food101_fast.shards.foreign.labels import Label, NoLabelError, read_label
from food101_fast.shards.foreign.members import Member, open_tar, read_members
from food101_fast.shards.foreign.options import IndexOptions
from food101_fast.shards.foreign.samples import COLLISION, LABELS, Sample, find_in_folders, find_samples
from food101_fast.shards.foreign.splits_inside import splits_inside
from food101_fast.shards.layout import npy_header
from food101_fast.shards.rejects import NO_LABEL, NotedImage, Reject
from food101_fast.storage import Folder


@dataclass(frozen=True, kw_only=True)
class Found:
    """The samples of a tar, in the order of their images."""

    name: str
    bytes: int
    xxh3_64: str
    spans: list[tuple[int, int, int]]
    """Offset, length and XXH3-64 of each image's file. Links give equal spans."""
    labels: list[Label]
    keys: list[str]
    """Key of each sample."""
    files: list[str]
    """Name of each image in the tar, after that of the tar."""
    rejects: list[Reject]
    notes: list[NotedImage]
    raw: bool
    """Whether every image is a NumPy array of exactly the stored size."""


class _NotUsedError(Exception):
    """A sample is not used.

    Attributes:
        reason: as in `Reject`.
        detail: what is wrong.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def scan_tar(folder: Folder, name: str, *, rules: Rules, options: IndexOptions) -> Found:
    """Find the samples of one tar and decode each of them.

    Raises:
        UserError: the tar can't be read, is truncated or damaged, or has folders of several splits.
    """
    file, content = open_tar(folder, name)
    members = read_members(file, content, f"{folder.url}/{name}")
    if options.label_from == "folder":
        samples, lost = find_in_folders(members)
    else:
        samples, lost = find_samples(members, options.key_ends_at)
    if problem := splits_inside(samples):
        raise UserError(f"{folder.url}/{name} {problem}")
    which = _repeated(members)
    rejects = [
        Reject(
            key=one.key,
            file=f"{name}/{one.member.name}",
            reason=one.problem.reason,
            detail=which.get(id(one.member), "") + one.problem.detail,
        )
        for one in lost
    ]
    header = npy_header(rules.size)
    scratch = Scratch()
    found: list[tuple[tuple[int, int, int], Label, str, str]] = []
    notes = []
    raw = True
    for sample in samples:
        image = sample.image
        where = f"{name}/{image.name}"
        payload = bytes(content[image.offset : image.offset + image.length])
        try:
            label = _label(content, sample, options.label_field)
            note = clean(payload, rules, scratch).note
        except (_NotUsedError, RejectedError) as error:
            detail = which.get(id(image), "") + error.detail
            rejects.append(Reject(key=sample.key, file=where, reason=error.reason, detail=detail))
            continue
        if note is not None:
            notes.append(NotedImage(key=sample.key, file=where, note=note.kind, detail=note.detail))
        raw = raw and payload.startswith(header) and image.length == len(header) + rules.size**2 * 3
        span = (image.offset, image.length, xxhash.xxh3_64_intdigest(payload))
        found.append((span, label, sample.key, where))
    return Found(
        name=name,
        bytes=len(content),
        xxh3_64=xxhash.xxh3_64_hexdigest(content),
        spans=[span for span, *_ in found],
        labels=[label for _, label, *_ in found],
        keys=[key for *_, key, _ in found],
        files=[file for *_, file in found],
        rejects=rejects,
        notes=notes,
        raw=raw,
    )


def _repeated(members: Sequence[Member]) -> dict[int, str]:
    """For each member whose name repeats, by its `id`: which of them it is, as the start of a sentence."""
    total = Counter(member.name for member in members)
    seen: Counter[str] = Counter()
    which = {}
    for member in members:
        seen[member.name] += 1
        if total[member.name] > 1:
            which[id(member)] = f"number {seen[member.name]} of {total[member.name]} members with this name: "
    return which


def _label(content: memoryview, sample: Sample, label_field: str) -> Label:
    if sample.folder is not None:
        return sample.folder
    if sample.label_suffix is None:
        raise _NotUsedError(NO_LABEL, f"the sample has no label ({', '.join(LABELS)}), only {sample.has}")
    labels = [_read(content, member, sample.label_suffix, label_field) for member in sample.labels]
    if len(set(labels)) > 1:
        suffix = sample.label_suffix
        raise _NotUsedError(
            COLLISION, f"the tar has {len(labels)} members with the key {sample.key} and suffix {suffix}, which differ"
        )
    return labels[0]


def _read(content: memoryview, member: Member, suffix: str, label_field: str) -> Label:
    if member.problem is not None:
        raise _NotUsedError(member.problem.reason, f"its label {member.name} is {member.problem.detail}")
    try:
        return read_label(bytes(content[member.offset : member.offset + member.length]), suffix, label_field)
    except NoLabelError as error:
        raise _NotUsedError(NO_LABEL, str(error)) from error
