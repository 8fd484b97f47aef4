"""The first lines of `train` say where images are kept only if that is news.

Seen when new users followed the docs: the first line of their first training looked like a warning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from food101_fast.prepare import PrepareSettings, prepare
from food101_fast.train import start
from food101_fast.train.context import TrainContext

Command = Callable[..., tuple[int, str, str]]


def said(shards: Path, run: Path, command: Command, monkeypatch: pytest.MonkeyPatch, *more: str) -> list[str]:
    """What the command says before it would train."""
    lines: list[str] = []
    monkeypatch.setattr(TrainContext, "say", lambda _, line: lines.append(line))
    monkeypatch.setattr(start, "_run_and_model", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    model = ("--model", "shufflenet_v2_x0_5", "--weights", "none", "--image-size", "32", "--batch-size", "8")
    assert command("train", "--shards", str(shards), "--run", str(run), *model, "--device", "cpu", *more)[0] == 130
    return lines


def test_the_usual_choice_is_not_news(
    tiny_path: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert said(tiny_path, tmp_path / "run", command, monkeypatch) == []


def test_what_was_asked_for_is_said(
    tiny_path: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for asked in ("stream", "host"):
        lines = said(tiny_path, tmp_path / "run", command, monkeypatch, "--residence", asked)
        assert [line.split(",")[0] for line in lines] == [f"train: residence {asked}", f"val: residence {asked}"]


def test_decoded_rows_in_memory_are_said(
    tiny_folder: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = PrepareSettings(source=f"folder:{tiny_folder}", out=tmp_path / "jpeg", size=32, workers=1)
    prepare(replace(settings, encoding="jpeg"))
    lines = said(tmp_path / "jpeg", tmp_path / "run", command, monkeypatch)
    assert [line.split(",")[0] for line in lines] == ["train: residence host", "val: residence host"]
