"""Commands without progress bars: tqdm is switched off by TQDM_DISABLE, and its bars then lack most attributes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tqdm import tqdm

import food101_fast.evaluate.job
import food101_fast.prepare.progress
import food101_fast.shards.__main__
import food101_fast.train.loop


class Disabled(tqdm):
    """What tqdm's bars are with TQDM_DISABLE=1, which it reads when it is imported."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **({"disable": True} | named))


def test_commands_work_without_bars(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., tuple[int, str, str]]
) -> None:
    for module in (
        food101_fast.evaluate.job,
        food101_fast.prepare.progress,
        food101_fast.shards.__main__,
        food101_fast.train.loop,
    ):
        monkeypatch.setattr(module, "tqdm", Disabled)
    out, run = str(tmp_path / "shards"), str(tmp_path / "run")
    flags = ["--model", "shufflenet_v2_x0_5", "--image-size", "32", "--batch-size", "16", "--epochs", "1"]
    for name, *arguments in (
        ["prepare", "--source", f"folder:{tiny_folder}", "--out", out, "--size", "32", "--workers", "1"],
        ["shards", "verify", out],
        ["train", "--recipe", "demo", "--shards", out, "--run", run, "--device", "cpu", *flags],
        ["evaluate", "--run", run, "--device", "cpu"],
    ):
        code, _, err = command(name, *arguments)
        assert code == 0, err
        assert "%|" not in err  # of a bar


def test_tqdm_disable_is_what_the_test_above_takes_it_for() -> None:
    program = "import tqdm; bar = tqdm.tqdm(total=3); print(bar.disable, hasattr(bar, 'initial'))"
    environment = os.environ | {"TQDM_DISABLE": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
