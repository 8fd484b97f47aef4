"""A data set as large as Food-101 in seconds: drawn pictures, linked until there are enough, and prepared.

    python benchmarks/repeated.py --out DIR [--pictures 1000] [--files 101000] [--workers 8] [--rows FILE]

Needs no network. Picture number n belongs to class n modulo `--classes` and so do all of its copies, so that a model
can learn them. Copies are hard links (of one file each), and `prepare` is told to keep duplicates: it decodes, checks
and stores every one of them. Makes DIR/pictures (JPEG, class folders), DIR/files, DIR/raw and DIR/jpeg (shards); the
last has the files of DIR/few, of which there are fewer.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from published import Measurement

from food101_fast.cli import exit_with, parse
from food101_fast.errors import UserError
from food101_fast.processes import usable_cores
from food101_fast.shards import ShardSet

DRAWN = 224
"""Height and width of the drawn pictures, in pixels."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Shards of repeated pictures."""

    out: Path
    """Folder to make everything in."""
    pictures: int = 1000
    """Pictures that are drawn; at most 1,000."""
    files: int = 101_000
    """Files that they are linked to, for the raw shards."""
    few: int = 12_000
    """The same for the JPEG shards."""
    classes: int = 101
    """Classes that the files are divided into."""
    size: int = 192
    """Height and width of the stored images, in pixels."""
    workers: int = usable_cores()
    """Processes that draw and decode."""
    rows: Path | None = None
    """File to append each row to as it is measured."""
    json: Path | None = None
    """File to write the results to."""
    part: str = "prepare"
    """What the rows are marked with."""


def prepare(source: str, out: Path, workers: int, *flags: str) -> int:
    """Run the command; returns the samples that it stored.

    Raises:
        UserError: it fails; what it said stands above.
    """
    command = [sys.executable, "-m", "food101_fast.prepare", "--source", source, "--out", str(out)]
    if subprocess.run([*command, "--workers", str(workers), *flags], stdout=sys.stderr, check=False).returncode:
        raise UserError(f"preparing {source} failed; the reason stands above")
    return sum(split.samples for split in ShardSet.open(out).manifest.splits.values())


def draw(settings: Settings) -> list[Path]:
    """The pictures as files, without the source's corrupt ones."""
    shards = settings.out / "drawn"
    flags = ["--limit", str(settings.pictures), "--size", str(DRAWN), "--encoding", "jpeg"]
    prepare("demo:", shards, settings.workers, *flags)
    for path in sorted(shards.glob("*.tar")):
        with tarfile.open(path) as tar:
            tar.extractall(
                settings.out / "pictures", [member for member in tar if member.name.endswith(".jpg")], filter="data"
            )
    return sorted((settings.out / "pictures").rglob("*.jpg"))


def link(pictures: Sequence[Path], folder: Path, files: int, classes: int) -> int:
    """Class folders with so many links to the pictures; all copies of one are in one class."""
    for number in range(classes):
        (folder / f"class-{number:03d}").mkdir(parents=True)
    for file in range(files):
        copy, number = divmod(file, len(pictures))
        os.link(pictures[number], folder / f"class-{number % classes:03d}" / f"{number:04d}-{copy:03d}.jpg")
    return files


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    settings = parse(Settings, "benchmarks/repeated", argv)
    settings.out.mkdir(parents=True, exist_ok=True)
    measurement = Measurement(settings.json, rows=settings.rows, part=settings.part, settings=vars(settings))
    results: dict[str, float] = {}
    pictures: list[Path] = []

    def timed(name: str, work: Callable[[], int]) -> None:
        begun = time.perf_counter()
        amount = work()
        seconds = time.perf_counter() - begun
        results[name] = seconds
        measurement.rows.value(name, seconds, "s", images=amount, images_per_second=amount / seconds)
        print(f"{name}: {amount:,} in {seconds:.1f} s, {amount / seconds:,.0f}/s", flush=True)

    def drawn() -> int:
        pictures.extend(draw(settings))
        return len(pictures)

    def stored(encoding: str, files: Path) -> Callable[[], int]:
        flags = ["--size", str(settings.size), "--encoding", encoding, "--duplicates", "keep"]
        return lambda: prepare(f"folder:{files}", settings.out / encoding, settings.workers, *flags)

    few, many = settings.out / "few", settings.out / "files"
    timed(f"draw, {DRAWN} px", drawn)
    timed("link, few", lambda: link(pictures, few, settings.few, settings.classes))
    timed(f"prepare to JPEG, {settings.size} px", stored("jpeg", few))
    timed("link, all", lambda: link(pictures, many, settings.files, settings.classes))
    timed(f"prepare to raw, {settings.size} px", stored("raw", many))
    kept = {name: value for name, value in vars(settings).items() if not isinstance(value, Path)}
    measurement.publish(kept, seconds=results)


if __name__ == "__main__":
    exit_with(main)
