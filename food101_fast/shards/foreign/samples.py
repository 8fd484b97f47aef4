"""Which members of a tar are one sample, and which images are lost because of their names.

As webdataset defines it, the key of a sample is the file's path up to the first dot of its base name, and the rest is
the suffix: `a/IMG_1.edited.jpg` is the member `edited.jpg` of the sample `a/IMG_1`. Members of a key may be anywhere in
the tar, since the whole tar is there; webdataset itself, which streams, needs them one after the other.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, field

from food101_fast.images import SUFFIXES
from food101_fast.shards.foreign.members import Member, Problem
from food101_fast.shards.foreign.options import KeyEnd
from food101_fast.shards.rejects import NO_IMAGE, NO_LABEL

IMAGES = (*SUFFIXES[:4], "npy", *SUFFIXES[4:])
"""Suffixes of members that are images; of several in a sample the first in this order is used."""
_IMAGES = frozenset(IMAGES)
LABELS = ("cls", "class", "label", "json", "txt")
"""Suffixes of members with a label; of several in a sample the first in this order is used."""

COLLISION = "key-collision"
EXTRA = "extra-image"
LAST_DOT_HELPS = "give --key-ends-at last-dot"
"""How the detail of a collision ends that another end of keys resolves."""

_MOST_NAMES = 8  # in a sentence


@dataclass(frozen=True, kw_only=True)
class Sample:
    """An image, and the members that may have its label."""

    key: str
    image: Member
    labels: tuple[Member, ...] = ()
    """Members with the first suffix of `LABELS` that the sample has, in the order of the tar; usually one."""
    label_suffix: str | None = None
    """That suffix; None if there is no label."""
    has: str = ""
    """Suffixes of its members, for the sentence about a missing label."""
    folder: str | None = None
    """Name of the folder that is its label; None if members have it."""


@dataclass(frozen=True, kw_only=True)
class Lost:
    """An image member, or a sample without any, that can't become a sample."""

    key: str
    member: Member
    problem: Problem


@dataclass(kw_only=True)
class _Group:
    """Members of one key, each with its suffix, in the order of the tar."""

    images: list[tuple[str, Member]] = field(default_factory=list)
    labels: list[tuple[str, Member]] = field(default_factory=list)
    all: list[tuple[str, Member]] = field(default_factory=list)


def split_name(name: str, key_ends_at: KeyEnd) -> tuple[str, str] | None:
    """Key and suffix (lower case) of a member; None for hidden files, which are not part of any sample."""
    folder, slash, base = name.rpartition("/")
    if not base or base.startswith("."):
        return None
    stem, _, suffix = base.partition(".")
    if key_ends_at == "last-dot" and suffix:
        stem, _, suffix = base.rpartition(".")
    return folder + slash + stem, suffix.lower()


def find_samples(members: Iterable[Member], key_ends_at: KeyEnd) -> tuple[list[Sample], list[Lost]]:
    """Samples in the order of their images in the tar, and every image that is not one of them."""
    groups: dict[str, _Group] = {}
    for member in members:
        named = split_name(member.name, key_ends_at)
        if named is None:
            continue
        key, suffix = named
        group = groups.setdefault(key, _Group())
        group.all.append((suffix, member))
        extension = suffix.rpartition(".")[2]
        if extension in _IMAGES:
            group.images.append((suffix, member))
        elif extension in LABELS:
            group.labels.append((suffix, member))
    samples: list[Sample] = []
    lost: list[Lost] = []
    for key, group in groups.items():
        sample = _sample(key, group)
        lost += _lost(key, group, sample)
        if sample is not None:
            samples.append(sample)
    return sorted(samples, key=lambda sample: sample.image.offset), lost


def find_in_folders(members: Iterable[Member]) -> tuple[list[Sample], list[Lost]]:
    """Samples of a tar of class folders: every image is one, with the name of its folder as its label."""
    samples: dict[str, Sample] = {}
    lost = []
    for member in members:
        named = split_name(member.name, "last-dot")
        if named is None:
            continue
        key, suffix = named
        folder = posixpath.dirname(posixpath.normpath(member.name))
        problem = member.problem
        if suffix not in IMAGES:
            problem = Problem(reason=NO_IMAGE, detail=f"not an image by its suffix {suffix!r}")
        elif problem is None and member.name in samples:
            problem = Problem(reason=COLLISION, detail="the tar has an earlier member with this name")
        elif problem is None and not folder:
            problem = Problem(reason=NO_LABEL, detail="it is in no folder that could be its class")
        if problem is not None:
            lost.append(Lost(key=key, member=member, problem=problem))
            continue
        samples[member.name] = Sample(key=key, image=member, folder=posixpath.basename(folder))
    return sorted(samples.values(), key=lambda sample: sample.image.offset), lost


def _sample(key: str, group: _Group) -> Sample | None:
    readable: dict[str, list[Member]] = {}
    for suffix, member in group.images:
        if member.problem is None:
            readable.setdefault(suffix, []).append(member)
    image_suffix = next((suffix for suffix in IMAGES if suffix in readable), None)
    if image_suffix is None:
        return None
    label_suffix = next((label for label in LABELS if any(label == found for found, _ in group.labels)), None)
    return Sample(
        key=key,
        image=readable[image_suffix][0],
        labels=tuple(member for found, member in group.labels if found == label_suffix),
        label_suffix=label_suffix,
        has=_suffixes(group),
    )


def _suffixes(group: _Group) -> str:
    names = list(dict.fromkeys(suffix or "no suffix" for suffix, _ in group.all))
    more = f" and {len(names) - _MOST_NAMES:,} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def _lost(key: str, group: _Group, sample: Sample | None) -> Iterator[Lost]:
    if not group.images:
        detail = f"the sample has no image (jpg, png, webp, npy, ...), only {_suffixes(group)}"
        yield Lost(key=key, member=group.all[0][1], problem=Problem(reason=NO_IMAGE, detail=detail))
    labels = {suffix for suffix, _ in group.labels}
    seen: set[str] = set()
    for suffix, member in group.images:
        is_again = suffix in seen
        seen.add(suffix)
        if sample is not None and member is sample.image:
            continue
        problem = member.problem or _collision(key, suffix, labels, sample, is_again=is_again)
        yield Lost(key=key, member=member, problem=problem)


def _collision(key: str, suffix: str, labels: Set[str], sample: Sample | None, *, is_again: bool) -> Problem:
    """Why a readable image is not the image of its sample."""
    if is_again:
        return Problem(reason=COLLISION, detail=f"the tar has an earlier member with the key {key} and suffix {suffix}")
    stem, dot, _ = suffix.rpartition(".")
    has_own_label = any(f"{stem}{dot}{label}" in labels for label in LABELS)
    rule = f"a key ends at the first dot of a file name, so this is the member {suffix} of the sample {key}"
    if dot and (sample is None or has_own_label):
        advice = f"not a sample of its own; rename the file, or {LAST_DOT_HELPS}"
        return Problem(reason=COLLISION, detail=f"{rule}, {advice}")
    assert sample is not None  # else the first image without a second dot would be the sample's
    if not dot and len(sample.labels) > 1:
        return Problem(reason=COLLISION, detail=f"the tar has an earlier image and label with the key {key}")
    used = f"the image of the sample is {sample.image.name}, and the label is for that one"
    return Problem(reason=EXTRA, detail=f"{rule}; {used}" if dot else used)
