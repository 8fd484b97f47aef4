"""Overlays: decisions about single samples, in a file beside shards that stay as they are.

A decision leaves a sample out, gives it another label, or keeps it as it is in the shards. `ShardSet.open(dir,
overlay=...)` shows the data set with the decisions applied: its lengths, labels, class counts and digest follow from
the shards and the overlays alone. Samples that are left out have no number, so those after them move up.

Several overlays apply in their order. A later decision about a sample replaces an earlier one, which is what `keep` is
for.

A sample is named by its split and its number in the shards, which images that are appended do not change. So an overlay
also applies after `prepare --append`.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import orjson
import xxhash
from numpy.typing import NDArray

from food101_fast.documents import parse
from food101_fast.errors import UserError
from food101_fast.resources import machine_advice
from food101_fast.shards.manifest import Manifest, SplitEntry
from food101_fast.storage import open_folder, write_atomically, writing

OVERLAY_FORMAT = "food101_fast overlay"
OVERLAY_VERSION = 1

Action = Literal["drop", "relabel", "keep"]
_ADVICE = "write it again, or leave --overlay out"
_MOST_NAMED = 10


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What becomes of one sample."""

    split: str
    id: int
    """Its number in the split, as the shards have it."""
    action: Action
    """drop leaves it out, relabel gives it `label`, keep leaves it as it is in the shards."""
    label: str | None = None
    """Name of its class from now on; only with relabel."""
    key: str = ""
    """Its key in the shards, for people."""
    reason: str = ""
    by: str = "person"
    """Who decided: `audit` or `person`."""

    def __post_init__(self) -> None:
        if self.action not in get_args(Action):
            raise ValueError(f"the action is {', '.join(get_args(Action))}, and not {self.action!r}")
        if self.id < 0:
            raise ValueError(f"the number of a sample is at least 0, and not {self.id}")
        if (self.action == "relabel") != (self.label is not None):
            raise ValueError(f"sample {self.id} of {self.split}: relabel, and nothing else, needs a label")


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """Decisions about the samples of one data set."""

    data: str
    """Digest of the manifest of its shards."""
    decisions: tuple[Decision, ...]
    """At most one for each sample."""

    def __post_init__(self) -> None:
        seen: set[tuple[str, int]] = set()
        for decision in self.decisions:
            if (decision.split, decision.id) in seen:
                raise ValueError(f"there are two decisions about sample {decision.id} of {decision.split}")
            seen.add((decision.split, decision.id))

    @property
    def digest(self) -> str:
        """XXH3-64 of what it does, 16 hexadecimal digits; reasons and the order of decisions do not change it."""
        what = sorted((one.split, one.id, one.action, one.label or "") for one in self.decisions)
        return xxhash.xxh3_64_hexdigest(orjson.dumps([self.data, what]))


@dataclass(frozen=True, eq=False)
class Changes:
    """A split with overlays applied."""

    kept: NDArray[np.int64]
    """(N',) numbers in the shards of the samples that are kept, ascending."""
    labels: NDArray[np.int64]
    """(N',) their labels."""
    dropped: int
    """Samples that are left out."""
    relabeled: int
    """Samples that are kept with another label."""


@dataclass(frozen=True, kw_only=True)
class _File:
    """The content of an overlay's file."""

    format: str
    version: int
    data: str
    decisions: tuple[Decision, ...] = ()


def write_overlay(path: Path, overlay: Overlay) -> None:
    """Write an overlay atomically, a decision a line.

    Raises:
        UserError: it can't be written.
    """
    head = {"format": OVERLAY_FORMAT, "version": OVERLAY_VERSION, "data": overlay.data}
    lines = [orjson.dumps({k: v for k, v in asdict(one).items() if v not in (None, "")}) for one in overlay.decisions]
    content = orjson.dumps(head)[:-1] + b',"decisions":[\n' + b",\n".join(lines) + b"\n]}\n"
    with writing(path, "or give another path"):
        write_atomically(path, content)


def read_overlay(location: str) -> Overlay:
    """Read an overlay.

    Args:
        location: of its file, a path or a URL.

    Raises:
        UserError: there is no such file, or it is no overlay.
    """
    folder, name = posixpath.split(location)
    try:
        content = open_folder(folder or ".").read(name)
    except FileNotFoundError as error:
        raise UserError(f"there is no overlay {location}; give its path to --overlay") from error
    except IsADirectoryError as error:
        raise UserError(f"{location} is a folder; give the file of the overlay to --overlay") from error
    except OSError as error:
        advice = machine_advice(error) or "make it readable"
        raise UserError(f"the overlay {location} can't be read ({error.strerror or error}); {advice}") from error
    if f'"{OVERLAY_FORMAT}"'.encode() not in content:
        raise UserError(f"{location} is not an overlay; give a file that write_overlay wrote to --overlay")
    found = parse(content, _File, where=location, advice=f"actions are {', '.join(get_args(Action))}; {_ADVICE}")
    if found.format != OVERLAY_FORMAT or found.version != OVERLAY_VERSION:
        raise UserError(
            f"{location} has version {found.version} of the format {found.format!r}, which this program does not read; "
            f"{_ADVICE}"
        )
    try:
        return Overlay(data=found.data, decisions=found.decisions)
    except ValueError as error:
        raise UserError(f"{location} is damaged ({error}); {_ADVICE}") from error


def changes_of(
    overlays: Mapping[str, Overlay], manifest: Manifest, labels_of: Callable[[str], NDArray[np.int64]]
) -> dict[str, Changes]:
    """What overlays make of each split that they decide about.

    Args:
        overlays: by their location, in the order in which they apply.
        manifest: of the shards.
        labels_of: gives the (N,) labels of a split as the shards have them.

    Raises:
        UserError: an overlay belongs to other shards or names what they do not have, or a split or a class of train
            would have no image left.
    """
    labels: dict[str, NDArray[np.int64]] = {}
    kept: dict[str, NDArray[np.bool_]] = {}
    stored: dict[str, NDArray[np.int64]] = {}
    known = {manifest.digest, *(earlier.digest for earlier in manifest.lineage)}
    number = {name: label for label, name in enumerate(manifest.classes)}
    for location, overlay in overlays.items():
        if overlay.data not in known:
            raise UserError(
                f"the overlay {location} was made for other shards (digest {overlay.data}) than these (digest "
                f"{manifest.digest}); give the overlay of these shards"
            )
        for one in overlay.decisions:
            if one.split not in manifest.splits:
                raise _unknown(location, one, f"the shards have only {', '.join(manifest.splits)}")
            if one.split not in labels:
                stored[one.split] = labels_of(one.split)
                labels[one.split] = stored[one.split].copy()
                kept[one.split] = np.ones(len(stored[one.split]), np.bool_)
            if one.id >= len(stored[one.split]):
                raise _unknown(location, one, f"its samples are 0 to {len(stored[one.split]) - 1:,}")
            if one.label is not None and one.label not in number:
                names = ", ".join(manifest.classes[:_MOST_NAMED]) + (", ..." if len(number) > _MOST_NAMED else "")
                raise _unknown(location, one, f"{one.label!r} is none of the classes ({names})")
            kept[one.split][one.id] = one.action != "drop"
            labels[one.split][one.id] = stored[one.split][one.id] if one.label is None else number[one.label]
    found = {}
    for split in labels:
        left = np.flatnonzero(kept[split])
        found[split] = Changes(
            kept=left,
            labels=labels[split][left],
            dropped=len(stored[split]) - len(left),
            relabeled=int(np.count_nonzero(labels[split][left] != stored[split][left])),
        )
        _refuse_empty(split, manifest, found[split], stored[split], list(overlays))
    return found


def _unknown(location: str, one: Decision, why: str) -> UserError:
    return UserError(f"the overlay {location} has a decision on sample {one.id} of {one.split}: {why}; {_ADVICE}")


def _refuse_empty(
    split: str, manifest: Manifest, changes: Changes, stored: NDArray[np.int64], locations: Sequence[str]
) -> None:
    """Refuse a split without samples, and a class that has lost its last image to train on."""
    classes = len(manifest.classes)
    before, after = np.bincount(stored, minlength=classes), np.bincount(changes.labels, minlength=classes)
    gone = [manifest.classes[label] for label in np.flatnonzero((before > 0) & (after == 0)).tolist()]
    if not len(changes.kept) or (split == "train" and gone):
        what = f"class {gone[0]!r} without an image in train" if len(changes.kept) else f"{split} without an image"
        raise UserError(
            f"the overlay {' and '.join(locations)} leaves {what}; undo a decision, or prepare without the class "
            "(--exclude-classes)"
        )


def changed_manifest(manifest: Manifest, overlays: Iterable[Overlay], changes: Mapping[str, Changes]) -> Manifest:
    """The manifest of the data set with overlays applied: counts of samples and classes, and another digest."""
    splits = {
        name: entry if name not in changes else _changed(entry, changes[name], len(manifest.classes))
        for name, entry in manifest.splits.items()
    }
    changed = [name for name, of in changes.items() if of.dropped or of.relabeled]
    return replace(
        manifest,
        splits=splits,
        overlays=(*manifest.overlays, *(overlay.digest for overlay in overlays)),
        overlaid_splits=tuple(name for name in manifest.splits if name in {*manifest.overlaid_splits, *changed}),
    )


def _changed(entry: SplitEntry, changes: Changes, classes: int) -> SplitEntry:
    counts = np.bincount(changes.labels, minlength=classes).tolist()
    return replace(entry, samples=len(changes.kept), class_counts=tuple(counts))


@dataclass(frozen=True, eq=False)
class View:
    """Which rows of the shards a split shows."""

    used: NDArray[np.int64]
    """(S',) the shards that have samples, of all S."""
    rows: NDArray[np.int64] | None
    """(N',) for each sample its row in these shards, counted through them; None where all rows are shown."""
    samples: NDArray[np.int64]
    """(S',) samples that are shown of each of these shards."""


def view(sizes: NDArray[np.int64], changes: Changes | None) -> View:
    """What is shown of shards with these numbers of rows, (S,).

    Args:
        sizes: rows of each shard.
        changes: None to show all of them.
    """
    if changes is None:
        used = np.flatnonzero(sizes)
        return View(used, None, sizes[used])
    ends = np.cumsum(sizes)
    shard = np.searchsorted(ends, changes.kept, side="right")
    samples = np.bincount(shard, minlength=len(sizes))
    used = np.flatnonzero(samples)
    first = np.cumsum(sizes[used]) - sizes[used]  # of each used shard among the used ones
    moved = np.zeros(len(sizes), np.int64)
    moved[used] = first - (ends - sizes)[used]
    return View(used, changes.kept + moved[shard], samples[used])


def as_locations(given: str | Path | Sequence[str | Path] | None) -> tuple[str, ...]:
    """Locations of overlays: None, one, or several."""
    if given is None:
        return ()
    return (str(given),) if isinstance(given, str | Path) else tuple(map(str, given))
