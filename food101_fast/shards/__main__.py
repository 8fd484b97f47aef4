"""`python -m food101_fast.shards verify|show DIR | index TAR...`: check shards, list them, index other tars."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated

import tyro
from annotated_types import Ge, Le
from tqdm import tqdm

from food101_fast.cli import exit_with, parse
from food101_fast.errors import UserError
from food101_fast.images import MAX_PIXELS, Decode, Fit, Rules
from food101_fast.processes import usable_cores
from food101_fast.shards.foreign import IndexOptions, write_index
from food101_fast.shards.foreign.members import printable
from food101_fast.shards.manifest import read_manifest
from food101_fast.shards.show import describe
from food101_fast.shards.verify import verify
from food101_fast.storage import open_folder

_DAMAGED_CODE = 1


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Check the manifest, the sizes and hashes of all files, and every sample. Exit code 1 if there are problems."""

    folder: tyro.conf.Positional[str]
    """Folder of shards, a path or a URL."""


@dataclass(frozen=True, kw_only=True)
class Show:
    """Print splits, classes, counts, sizes, and how many images were dropped and why."""

    folder: tyro.conf.Positional[str]
    """Folder of shards, a path or a URL."""
    overlay: tuple[str, ...] = ()
    """Overlays to apply, in this order: the counts are then those of the images that are left."""


@dataclass(frozen=True, kw_only=True)
class Index(IndexOptions):
    """Write an index and a manifest for WebDataset tars of other programs, to train on them without copying."""

    tars: tyro.conf.Positional[tuple[str, ...]]
    """Tars: paths or URLs, with braces such as {000000..000009}, and on a disk also ~ and *. A sample needs an
    image (jpg, png, webp, npy, tif, bmp, gif, ...) and a label (cls, label, txt, or a field of json). If the tars are
    in several folders, such as train/ and val/, the manifest is written into the folder above these."""
    size: Annotated[int, Ge(8), Le(4096)] = 192
    """Height and width in pixels that images are resized to when they are read."""
    fit: Fit = "crop"
    """How an image becomes square: crop cuts both ends of the longer side, squash changes the aspect ratio."""
    decode: Decode = "scaled"
    """scaled decodes a JPEG at the smallest size of 1/8, 2/8, ... 8/8 that is not below --size; full decodes all its
    pixels."""
    classes: Path | None = None
    """Text file with one class name a line, in the order of the class numbers."""
    min_side: Annotated[int, Ge(1)] = 8
    """Drop images whose shorter side has fewer pixels."""
    max_pixels: Annotated[int, Ge(1)] = MAX_PIXELS
    """Drop images with more pixels (height x width)."""
    workers: Annotated[int, Ge(1)] = field(default_factory=usable_cores)
    """Processes that decode the images to check them."""

    def __post_init__(self) -> None:
        if not self.tars:
            raise UserError("shards index needs tars, such as 'data/train-{000000..000009}.tar'")
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class ApplyOverlay:
    """Write shards with overlays applied as new shards: rows are copied, and nothing is decoded."""

    folder: tyro.conf.Positional[str]
    """Folder of shards, a path or a URL."""
    overlay: tuple[str, ...]
    """Overlays, in the order in which they apply."""
    out: str
    """Folder for the new shards, a path or a URL."""


Command = Annotated[
    Annotated[Verify, tyro.conf.subcommand("verify")]
    | Annotated[Show, tyro.conf.subcommand("show")]
    | Annotated[Index, tyro.conf.subcommand("index")]
    | Annotated[ApplyOverlay, tyro.conf.subcommand("apply-overlay")],
    tyro.conf.arg(name=""),
]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Check or list a folder of shards, or make one from tars of other programs."""

    command: Command


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    command = parse(Settings, "shards", argv).command
    if isinstance(command, Index):
        _index(command)
        return
    if isinstance(command, ApplyOverlay):
        _apply(command)
        return
    if isinstance(command, Show):
        print(_shown(command))
        return
    folder = open_folder(command.folder)
    manifest = read_manifest(folder)
    samples = sum(split.samples for split in manifest.splits.values())
    with tqdm(total=samples, desc="verify", unit="images") as bar:
        problems = list(verify(folder, bar.update))
    for problem in problems:
        print(problem)
    shards = len({shard.name for split in manifest.splits.values() for shard in split.shards})
    print(
        f"{printable(command.folder)}: {samples:,} images in {_counted(shards, 'shard')}, "
        + (f"{_counted(len(problems), 'problem')}; {manifest.advice}" if problems else "all as written")
    )
    if problems:
        sys.exit(_DAMAGED_CODE)


def _apply(command: ApplyOverlay) -> None:
    """Write new shards, and say what is in them."""
    from food101_fast.shards.apply import apply_overlays, checked_target  # these import torch
    from food101_fast.shards.reader import ShardSet

    shards = ShardSet.open(command.folder, overlay=command.overlay)
    checked_target(shards, command.out)
    samples = sum(split.samples for split in shards.manifest.splits.values())
    with tqdm(total=samples, desc="write", unit="images") as bar:
        manifest = apply_overlays(shards, command.out, bar.update)
    print(describe(manifest, printable(command.out)))


def _shown(command: Show) -> str:
    """What `shards show` prints."""
    location = printable(command.folder)
    if not command.overlay:
        return describe(read_manifest(open_folder(command.folder)), location)
    from food101_fast.shards.reader import ShardSet  # here, since it imports torch

    shards = ShardSet.open(command.folder, overlay=command.overlay)
    dropped = sum(of.dropped for of in shards.changes.values())
    relabeled = sum(of.relabeled for of in shards.changes.values())
    changed = f"{_counted(dropped, 'image')} left out, {_counted(relabeled, 'image')} with another label"
    return describe(shards.manifest, location, stored=shards.stored, overlays=shards.overlays, changed=changed)


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _index(command: Index) -> None:
    rules = Rules(
        size=command.size, fit=command.fit, decode=command.decode, min_side=command.min_side,
        max_pixels=command.max_pixels,
    )  # fmt: skip
    # Not the command itself: worker processes do not import this module, which is __main__ here.
    options = IndexOptions(**{option.name: getattr(command, option.name) for option in fields(IndexOptions)})
    with tqdm(desc="index", unit="images") as bar:
        folder, manifest = write_index(
            command.tars,
            rules,
            options,
            classes=_read_classes(command.classes),
            workers=command.workers,
            progress=bar.update,
        )
    print(describe(manifest, printable(folder.url)))
    if "train" in manifest.splits and "val" not in manifest.splits:
        print(f"train needs a val split too: {manifest.val_advice}")


def _read_classes(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    try:
        names = path.expanduser().read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--classes {path} can't be read ({error}); give a text file with one name a line") from error
    names = [name.strip() for name in names if name.strip()]
    if not names or len(set(names)) != len(names):
        raise UserError(f"--classes {path} is empty or has a name twice; give one name a line, each once")
    return names


if __name__ == "__main__":
    exit_with(main)
