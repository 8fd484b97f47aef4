"""`python -m food101_fast.transforms` as a user starts it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from food101_fast.shards import ShardSet
from food101_fast.transforms import PRESETS

Command = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("preset", PRESETS)
def test_the_picture_shows_stored_images_and_epochs(
    preset: str, tiny_path: Path, tmp_path: Path, command: Command
) -> None:
    out = tmp_path / "grid.png"
    options = ("--shards", str(tiny_path), "--out", str(out), "--preset", preset, "--samples", "3", "--epochs", "2")
    code, printed, _ = command("transforms", *options)
    assert (code, printed) == (0, f"{out}\n")
    sheet = np.asarray(Image.open(out).convert("RGB"))
    assert sheet.shape == (18 + 3 * 38 + 6, 3 * 38 + 12, 3)  # tiles of 32 pixels and margins of 6
    split = ShardSet.open(tiny_path).split("train")
    tiles = [sheet[18:50, left : left + 32] for left in (6, 50, 88)]
    assert any(np.array_equal(tiles[0], split[sample]) for sample in range(len(split)))
    assert not np.array_equal(tiles[1], tiles[2])
    again = tmp_path / "again.png"
    command("transforms", *options[:3], str(again), *options[4:])
    assert again.read_bytes() == out.read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--preset", "wild"),
            "--preset 'wild' should be one of: baseline, strong, trivial, randaugment, autoaugment, augmix",
        ),
        (("--erasing", "2"), "--erasing 2.0 should be at least 0 and at most 1"),
        (("--samples", "0"), "should be at least 1"),
        (("--out", "grid.gif"), "should end in .png or .jpg"),
        (("--shards", "nowhere"), "there is no shards folder nowhere"),
        (("--out", "no/such/folder/grid.png"), "no/such/folder/grid.png could not be written"),
    ],
)
def test_mistakes_are_one_sentence(options: tuple[str, ...], message: str, tiny_path: Path, command: Command) -> None:
    given = {"--shards": str(tiny_path), "--out": "grid.png", options[0]: options[1]}
    code, _, err = command("transforms", *(word for pair in given.items() for word in pair))
    assert (code, err.count("\n")) == (2, 1)
    assert message in err
