"""`python -m food101_fast.prepare`: write shards, then say what was written and what was dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from food101_fast.cli import exit_with


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    # Here, since worker processes import this module too, and so that Ctrl-C works from the first moment.
    from food101_fast.cli import parse
    from food101_fast.prepare.job import is_finished, prepare
    from food101_fast.prepare.settings import PrepareSettings
    from food101_fast.shards.protocol import protocol, remarks

    settings = parse(PrepareSettings, "prepare", argv)
    before = is_finished(settings.out)
    manifest = prepare(settings)
    if before and not settings.append:
        print(f"{settings.out} was already finished with these settings and this source; nothing was changed")
    written = sum(split.samples for split in manifest.splits.values())
    sizes = ", ".join(f"{name} {split.samples:,}" for name, split in manifest.splits.items())
    print(f"{settings.out}: {written:,} images of {len(manifest.classes)} classes ({sizes})")
    for line in (protocol(manifest), *remarks(manifest)):
        print(line)
    if not manifest.rejects:
        print("dropped none")
    else:
        dropped = _listed(manifest.rejects)
        print(f"dropped {manifest.read - written:,} of {manifest.read:,} ({dropped}); see {settings.out}/rejects.jsonl")
    if manifest.notes:
        kept = sum(manifest.notes.values())
        print(f"kept {kept:,} with a note ({_listed(manifest.notes)}); see {settings.out}/notes.jsonl")
    print(f"pictures of it: {settings.out}/overview")


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{kind} {count:,}" for kind, count in counts.items())


if __name__ == "__main__":
    exit_with(main)
