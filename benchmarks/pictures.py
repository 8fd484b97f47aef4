"""Draw the pictures of the pages from the demo source: the overview, a report, the augmentation grid, a timeline.

    python benchmarks/pictures.py --folder build/pictures

They are no measurements, and are drawn again only when what they show looks different.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from food101_fast.cli import exit_with, parse

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "img"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Draw the pictures of the pages from the demo source."""

    folder: Path
    """New folder for shards and a run."""
    browser: str = "chromium"
    """Name or path of Chromium, for the picture of the report."""


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    settings = parse(Settings, "benchmarks/pictures", argv)
    shards, run, profile = (str(settings.folder / name) for name in ("shards", "run", "profile"))
    food101_fast("prepare", "--source", "demo:", "--size", "96", "--out", shards)
    food101_fast("train", "--shards", shards, "--run", run, "--recipe", "demo")
    food101_fast("evaluate", "--run", run)
    shutil.copy(Path(shards, "overview", "samples.png"), IMAGES / "overview.png")
    picture_of(Path(run, "report.html"), IMAGES / "report.png", settings.browser)
    grid = ("--samples", "4", "--epochs", "6", "--out", str(IMAGES / "strong.jpg"))
    food101_fast("transforms", "--preset", "strong", "--shards", shards, *grid)
    food101_fast(
        "bench", "train", "--shards", shards, "--model", "resnet18", "--batch-size", "32", "--profile", profile
    )
    shutil.copy(Path(profile, "timeline.png"), IMAGES / "timeline.png")
    for name in ("overview", "report", "timeline"):
        path = IMAGES / f"{name}.png"
        Image.open(path).convert("P", palette=Image.Palette.ADAPTIVE).save(path, optimize=True)


def food101_fast(*arguments: str) -> None:
    """Run one of the project's commands."""
    subprocess.run([sys.executable, "-m", f"food101_fast.{arguments[0]}", *arguments[1:]], check=True)


def picture_of(page: Path, picture: Path, browser: str) -> None:
    """A picture of the first 1,500 pixels of a page."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which(browser), args=["--no-sandbox"])
        tab = chromium.new_page(viewport={"width": 1000, "height": 1500})
        tab.goto(page.absolute().as_uri())
        tab.screenshot(path=picture)
        chromium.close()


if __name__ == "__main__":
    exit_with(main)
