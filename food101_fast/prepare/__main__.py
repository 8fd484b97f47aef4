"""`python -m food101_fast.prepare`: write shards, then say what was written and what was dropped."""

from __future__ import annotations

from collections.abc import Sequence

from food101_fast.cli import exit_with, parse
from food101_fast.prepare.job import PrepareSettings, prepare


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    settings = parse(PrepareSettings, "prepare", argv)
    manifest = prepare(settings)
    written = sum(split.samples for split in manifest.splits.values())
    sizes = ", ".join(f"{name} {split.samples:,}" for name, split in manifest.splits.items())
    print(f"{settings.out}: {written:,} images of {len(manifest.classes)} classes ({sizes})")
    dropped = ", ".join(f"{reason} {count}" for reason, count in manifest.rejects.items())
    if dropped:
        print(f"dropped {manifest.read - written} of {manifest.read:,} ({dropped}); see {settings.out}/rejects.jsonl")


if __name__ == "__main__":
    exit_with(main)
