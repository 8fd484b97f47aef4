"""A folder of shards as a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from food101_fast.shards.manifest import Manifest
from food101_fast.shards.protocol import protocol, remarks

_CLASS_WIDTH = 32


def describe(
    manifest: Manifest,
    location: str,
    *,
    stored: Manifest | None = None,
    overlays: Sequence[str] = (),
    changed: str = "",
) -> str:
    """Splits, classes, counts, sizes and rejects, as lines of text.

    Args:
        manifest: of the data set.
        location: path or URL of the folder, as the user gave it.
        stored: the manifest of the folder, if overlays are applied.
        overlays: their locations.
        changed: what they change.
    """
    folder = manifest if stored is None else stored
    shown, written = (sum(split.samples for split in of.splits.values()) for of in (manifest, folder))
    encoding = manifest.encoding + (f" (quality {manifest.quality})" if manifest.quality is not None else "")
    before = ", before overlays" if overlays else ""
    full = ", JPEGs decoded in full" if manifest.decode == "full" else ""
    lines = [
        f"{location}: {shown:,} images of {len(manifest.classes)} classes",
        f"{manifest.image_size} px, {encoding}, {manifest.fit}{full}, from {manifest.source}",
        protocol(manifest),
        *([f"overlays {', '.join(overlays)}: {changed}"] if overlays else []),
        *remarks(manifest),
        "",
        *_table(
            ("split", "images", "share", "shards", "size", "bytes/image", "per class"),
            [_split_row(manifest, name, shown) for name in manifest.splits],
        ),
        *_shared(manifest),
        "",
        *_table(
            ("class", *manifest.splits, "all"),
            [
                (name[:_CLASS_WIDTH], *map(_number, counts), _number(sum(counts)))
                for name, *counts in zip(
                    manifest.classes, *(split.class_counts for split in manifest.splits.values()), strict=True
                )
            ],
        ),
        "",
        f"read {manifest.read:,} = written {written:,} + dropped {manifest.read - written:,}{before}",
        *_kinds("dropped", manifest.rejects, "rejects.jsonl"),
        *_kinds("kept with a note", manifest.notes, "notes.jsonl"),
    ]
    return "\n".join(lines)


def _split_row(manifest: Manifest, name: str, written: int) -> tuple[str, ...]:
    split = manifest.splits[name]
    size = sum(shard.bytes for shard in split.shards)
    others = {shard.name for other, entry in manifest.splits.items() if other != name for shard in entry.shards}
    is_shared = any(shard.name in others for shard in split.shards)  # then its bytes are not of this split alone
    low, high = min(split.class_counts), max(split.class_counts)
    return (
        name,
        _number(split.samples),
        f"{split.samples / written:.1%}",
        _number(len(split.shards)),
        f"{size / 1e6:,.1f} MB",
        "-" if is_shared or manifest.overlays else _number(round(size / split.samples)),
        str(low) if low == high else f"{low} to {high}",
    )


def _shared(manifest: Manifest) -> list[str]:
    names = [shard.name for split in manifest.splits.values() for shard in split.shards]
    shared = len(names) - len(set(names))
    have = "1 tar has" if shared == 1 else f"{_number(shared)} tars have"
    return [f"{have} samples of train and val, so the size of both lines counts all of them"] if shared else []


def _number(value: int) -> str:
    return f"{value:,}"


def _kinds(title: str, counts: Mapping[str, int], name: str) -> list[str]:
    listed = ", ".join(f"{kind} {_number(count)}" for kind, count in counts.items())
    return [f"{title}: {listed} (see {name})"] if counts else []


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as they need to be, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    ]
