"""A run whose shards changed after it was trained: the message says how they changed and what helps.

Seen when new users followed the docs: the message named one path twice and helped nobody.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from food101_fast.prepare import PrepareSettings, prepare
from tests.conftest import encoded, picture, write_folder

Command = Callable[..., tuple[int, str, str]]
ADVICE = "train a new run on all images, or give a copy of the shards from before to --shards"


@pytest.fixture
def settings(tmp_path: Path) -> PrepareSettings:
    write_folder(tmp_path / "images", {"ant": 10, "bee": 10}, width=40, height=40)
    return PrepareSettings(source=f"folder:{tmp_path / 'images'}", out=tmp_path / "shards", size=32, workers=1)


@pytest.fixture
def run(settings: PrepareSettings, tmp_path: Path, command: Command) -> Path:
    prepare(settings)
    folder = tmp_path / "run"
    model = ("--model", "shufflenet_v2_x0_5", "--weights", "none", "--image-size", "32", "--batch-size", "8")
    arguments = ("--shards", str(settings.out), "--run", str(folder), *model, "--epochs", "1", "--device", "cpu")
    assert command("train", *arguments)[0] == 0
    return folder


def refused(result: tuple[int, str, str]) -> str:
    """The last line of a command that printed nothing but an error."""
    code, out, err = result
    assert (code, out) == (2, "")
    return err.splitlines()[-1]


def test_appended_images_are_named(settings: PrepareSettings, run: Path, tmp_path: Path, command: Command) -> None:
    shards, copy = settings.out, Path(shutil.copytree(settings.out, tmp_path / "copy"))
    (tmp_path / "images" / "ant" / "new.jpg").write_bytes(encoded(picture(5000, 40, 40)))
    prepare(replace(settings, append=True))
    said = f"images were appended to {shards} after the run was trained; {ADVICE}"
    resume = ("--run", str(run), "--resume", "--epochs", "2")
    assert refused(command("train", "--shards", str(shards), *resume)) == f"error: {run} can't be resumed: {said}"
    for given in ((), ("--shards", str(shards))):
        assert refused(command("evaluate", "--run", str(run), *given)) == f"error: {run} can't be evaluated: {said}"
    assert command("evaluate", "--run", str(run), "--shards", str(copy))[0] == 0
    assert command("train", "--shards", str(copy), *resume)[0] == 0


def test_replaced_shards_do_not_name_one_folder_twice(settings: PrepareSettings, run: Path, command: Command) -> None:
    shutil.rmtree(settings.out)
    prepare(replace(settings, seed=1))
    resumed = command("train", "--shards", str(settings.out), "--run", str(run), "--resume", "--epochs", "2")
    assert refused(resumed) == (
        f"error: {run} was trained on other shards than {settings.out} has now; give a copy of its own to --shards, or "
        "train a new run"
    )
