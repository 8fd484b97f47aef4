"""Draw the pictures of the pages from the demo source: overview, report, augmentation, timeline, what the doctor says.

    python benchmarks/pictures.py --folder build/pictures

They are no measurements, and are drawn again only when what they show looks different.
"""

from __future__ import annotations

import contextlib
import html
import os
import shutil
import subprocess
import sys
import termios
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from food101_fast.cli import exit_with, parse
from food101_fast.errors import UserError

_ROWS, _COLUMNS = 60, 80
_CHUNK_BYTES = 65536
_TERMINAL = (
    "width: 80ch; white-space: pre-wrap; margin: 0; padding: 1.2em 1.6em; "
    "background: #1e1e1e; color: #e6e6e6; font: 14px/1.35 monospace"
)
IMAGES = Path(__file__).resolve().parents[1] / "docs" / "img"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Draw the pictures of the pages from the demo source."""

    folder: Path
    """New folder for shards and a run."""
    browser: str = "chromium"
    """Name or path of Chromium, for the pictures of the report and of the doctor's output."""


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    settings = parse(Settings, "benchmarks/pictures", argv)
    shards, run, profile = (str(settings.folder / name) for name in ("shards", "run", "profile"))
    food101_fast("prepare", "--source", "demo:", "--size", "96", "--out", shards)
    food101_fast("train", "--shards", shards, "--run", run, "--recipe", "demo")
    food101_fast("evaluate", "--run", run)
    shutil.copy(Path(shards, "overview", "samples.png"), IMAGES / "overview.png")
    picture_of(Path(run, "report.html"), IMAGES / "report.png", settings.browser)
    for preset in (("strong",), ("augmix", "--erasing", "0.25")):
        grid = ("--samples", "4", "--epochs", "6", "--out", str(IMAGES / f"{preset[0]}.jpg"))
        food101_fast("transforms", "--shards", shards, *grid, "--preset", *preset)
    food101_fast(
        "bench", "train", "--shards", shards, "--model", "resnet18", "--batch-size", "32", "--profile", profile
    )
    shutil.copy(Path(profile, "timeline.png"), IMAGES / "timeline.png")
    doctor = ("bench", "--shards", "shards", "--model", "resnet18", "--image-size", "64", "--batch-size", "32")
    picture_of_terminal(doctor, settings.folder, IMAGES / "doctor.png", settings.browser)
    for name in ("overview", "report", "timeline", "doctor"):
        path = IMAGES / f"{name}.png"
        Image.open(path).convert("P", palette=Image.Palette.ADAPTIVE).save(path, optimize=True)


def food101_fast(*arguments: str) -> None:
    """Run one of the project's commands."""
    subprocess.run([sys.executable, "-m", f"food101_fast.{arguments[0]}", *arguments[1:]], check=True)


def picture_of_terminal(arguments: Sequence[str], folder: Path, picture: Path, browser: str) -> None:
    """A picture of what one of the project's commands prints on a terminal of 80 columns.

    Args:
        arguments: the command and its arguments.
        folder: where it runs, and where its text is written to as HTML.
        picture: PNG file to write.
        browser: name or path of Chromium.
    """
    command = [sys.executable, "-m", f"food101_fast.{arguments[0]}", *arguments[1:]]
    reader, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (_ROWS, _COLUMNS))
    with subprocess.Popen(command, stdout=terminal, cwd=folder) as process, open(reader, "rb", buffering=0) as printed:
        os.close(terminal)
        text = b""
        with contextlib.suppress(OSError):  # how a terminal says that its last writer is gone
            while more := printed.read(_CHUNK_BYTES):
                text += more
    if process.returncode:
        raise UserError(f"{' '.join(command)} failed with exit code {process.returncode}")
    shown = html.escape("\n".join([f"$ python -m food101_fast.{' '.join(arguments)}", *text.decode().splitlines()]))
    page = folder / "terminal.html"
    page.write_text(f'<meta charset="utf-8"><pre style="{_TERMINAL}">{shown}</pre>')
    picture_of(page, picture, browser, of="pre")


def picture_of(page: Path, picture: Path, browser: str, *, of: str | None = None) -> None:
    """A picture of the first 1,500 pixels of a page, or of the element that `of` selects in it."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which(browser), args=["--no-sandbox"])
        tab = chromium.new_page(viewport={"width": 1000, "height": 1500})
        tab.goto(page.absolute().as_uri())
        (tab if of is None else tab.locator(of)).screenshot(path=picture)
        chromium.close()


if __name__ == "__main__":
    exit_with(main)
