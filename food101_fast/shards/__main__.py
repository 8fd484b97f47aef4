"""`python -m food101_fast.shards verify|show DIR`: is it whole, and what is in it?"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro
from tqdm import tqdm

from food101_fast.cli import exit_with, parse
from food101_fast.shards.folder import open_folder
from food101_fast.shards.manifest import read_manifest
from food101_fast.shards.show import describe
from food101_fast.shards.verify import verify

_DAMAGED_CODE = 1


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Check the manifest, the sizes and hashes of all files, and every sample; name what is wrong (exit code 1)."""

    folder: tyro.conf.Positional[str]
    """Folder of shards, a path or a URL."""


@dataclass(frozen=True, kw_only=True)
class Show:
    """Print splits, classes, counts, sizes and what was dropped."""

    folder: tyro.conf.Positional[str]
    """Folder of shards, a path or a URL."""


Command = Annotated[
    Annotated[Verify, tyro.conf.subcommand("verify")] | Annotated[Show, tyro.conf.subcommand("show")],
    tyro.conf.arg(name=""),
]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Look into a folder of shards."""

    command: Command


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    command = parse(Settings, "shards", argv).command
    folder = open_folder(command.folder)
    manifest = read_manifest(folder)
    if isinstance(command, Show):
        print(describe(manifest, command.folder))
        return
    samples = sum(split.samples for split in manifest.splits.values())
    with tqdm(total=samples, desc="verify", unit="images") as bar:
        problems = list(verify(folder, bar.update))
    for problem in problems:
        print(problem)
    shards = sum(len(split.shards) for split in manifest.splits.values())
    print(
        f"{command.folder}: {samples:,} images in {shards} shards, "
        + (f"{len(problems)} problems; remove the folder and prepare it again" if problems else "all as written")
    )
    if problems:
        sys.exit(_DAMAGED_CODE)


if __name__ == "__main__":
    exit_with(main)
