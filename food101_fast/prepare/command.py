"""The command `prepare`: its flags, and what it says of the result."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from food101_fast.prepare.settings import PrepareSettings
from food101_fast.progress import Output
from food101_fast.shards.manifest import Manifest
from food101_fast.shards.protocol import protocol, remarks

# Titles in the help, and their fields. The others are the commonest, and come first.
GROUPS = {
    "source": ("columns", "config", "revision", "image_column", "label_column"),
    "images": ("decode", "duplicates", "strict", "tolerant", "min_side", "max_pixels"),
    "splits": ("seed", "val_fraction", "test_fraction", "map_splits", "group_by"),
    "classes": ("classes", "exclude_classes", "min_images", "rare"),
    "speed": ("workers", "executor", "ray_address"),
    "keeping": ("quality", "samples_per_shard", "append"),
    "output": ("quiet", "json"),
}


@dataclass(frozen=True, kw_only=True)
class PrepareCommand:
    """Decode, check, resize and write every image once, as WebDataset tars with stratified splits."""

    prepare: PrepareSettings
    """What is prepared, and how."""
    output: Output = field(default_factory=Output)
    """What the command prints."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What was written: the line of JSON that `prepare --json` prints."""

    out: str
    """Folder of the shards."""
    digest: str
    """Identity of the data set."""
    changed: bool
    """Whether anything was written; False if the folder was already finished."""
    classes: int
    splits: Mapping[str, int]
    """Images in each split."""
    protocol: str
    """Where the splits come from."""
    remarks: tuple[str, ...]
    """What is unusual about classes and shares."""
    read: int
    """Images that were read; equals those of all splits plus all rejects."""
    rejects: Mapping[str, int]
    """Dropped images by reason; see rejects.jsonl."""
    notes: Mapping[str, int]
    """Kept images about which there is something to note, by kind; see notes.jsonl."""


def prepared(manifest: Manifest, out: object, *, changed: bool) -> Prepared:
    """What was written, from the manifest of the folder `out`."""
    return Prepared(
        out=str(out),
        digest=manifest.digest,
        changed=changed,
        classes=len(manifest.classes),
        splits={name: split.samples for name, split in manifest.splits.items()},
        protocol=protocol(manifest),
        remarks=tuple(remarks(manifest)),
        read=manifest.read,
        rejects=manifest.rejects,
        notes=manifest.notes,
    )


def described(result: Prepared) -> str:
    """What was written, as lines for people."""
    written = sum(result.splits.values())
    sizes = ", ".join(f"{name} {samples:,}" for name, samples in result.splits.items())
    lines = [f"{result.out}: {written:,} images of {result.classes} classes ({sizes})"]
    lines += [result.protocol, *result.remarks]
    if not result.changed:
        lines.insert(0, f"{result.out} was already finished with these settings and this source; nothing was changed")
    if not result.rejects:
        lines.append("dropped none")
    else:
        dropped = f"dropped {result.read - written:,} of {result.read:,}"
        lines.append(f"{dropped} ({_listed(result.rejects)}); see {result.out}/rejects.jsonl")
    if result.notes:
        kept = f"kept {sum(result.notes.values()):,} with a note"
        lines.append(f"{kept} ({_listed(result.notes)}); see {result.out}/notes.jsonl")
    lines.append(f"pictures of it: {result.out}/overview")
    return "\n".join(lines)


def hide_bars_of_the_hub() -> None:
    """Hide the bars that downloading a data set shows; call it before `datasets` is imported."""
    os.environ |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{kind} {count:,}" for kind, count in counts.items())
