"""Commands that show less: with `--quiet`, with `--json`, and with TQDM_DISABLE, when bars lack most attributes.

Elsewhere bars are shown in spite of such a flag (mandiant/capa#193), or hide errors from scripts that read stderr
(robertoszek/pleroma-bot#108).
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from tqdm import tqdm

import food101_fast.shards.__main__
from food101_fast import progress
from food101_fast.progress import Output


class Disabled(tqdm):
    """What tqdm's bars are with TQDM_DISABLE=1, which it reads when it is imported."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **({"disable": True} | named))


FLAGS = "--device cpu --model shufflenet_v2_x0_5 --image-size 32 --batch-size 16 --epochs 1"


def test_quiet_shows_the_result_and_json_nothing_else(
    tiny_folder: Path, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    """Each command once with its first output and once with the second, which finds the work done."""
    out, run = str(tmp_path / "shards"), str(tmp_path / "run")
    prepare = ["prepare", "--source", f"folder:{tiny_folder}", "--out", out, "--size", "32", "--workers", "1"]
    code, written, err = command(*prepare, "--quiet")
    assert (code, err) == (0, "")
    assert written.startswith(f"{out}: ")
    code, written, err = command(*prepare, "--json")
    result = orjson.loads(written)
    assert (code, result["changed"]) == (0, False)
    assert sum(result["splits"].values()) + sum(result["rejects"].values()) == result["read"] == 73

    train = ["train", "--shards", out, "--run", run]
    code, written, err = command(*train, "--recipe", "demo", *FLAGS.split(), "--quiet")
    assert (code, err) == (0, "")
    assert written.startswith(f"{run}:\n  best epoch")
    assert "epoch 1/1" not in written
    code, written, err = command(*train, "--resume", "--device", "cpu", "--json")
    result = orjson.loads(written)
    assert (code, result["epochs"], result["best"]["epoch"], result["stopped_by"]) == (0, 1, 1, None)
    assert "this run is finished: it trained 1 of 1 epochs; to train longer give --resume --epochs 2" in err

    evaluate = ["evaluate", "--run", run, "--device", "cpu"]
    code, written, err = command(*evaluate, "--quiet", "--json")
    assert (code, err) == (0, "")
    result = orjson.loads(written)
    assert result == orjson.loads((tmp_path / "run" / "test_metrics.json").read_bytes()) | {
        "run": run,
        "files": result["files"],
    }
    assert all(Path(path).is_file() for path in result["files"])


@pytest.mark.parametrize(
    ("output", "out", "err"),
    [
        (Output(), "line\n", "note\nwarning: warning\n"),
        (Output(json=True), "", "line\nnote\nwarning: warning\n"),
        (Output(quiet=True), "", "warning: warning\n"),
        (Output(quiet=True, json=True), "", "warning: warning\n"),
    ],
)
def test_where_lines_are_printed(output: Output, out: str, err: str, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.shown(output):
        progress.say("line")
        progress.note("note")
        progress.warn("warning")
        assert progress.bar(total=2, file=io.StringIO()).disable == output.quiet
    assert capsys.readouterr() == (out, err)
    progress.say("line")
    assert capsys.readouterr() == ("line\n", "")


def test_commands_work_without_bars(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., tuple[int, str, str]]
) -> None:
    monkeypatch.setattr(progress, "Bar", Disabled)
    monkeypatch.setattr(food101_fast.shards.__main__, "tqdm", Disabled)
    out, run = str(tmp_path / "shards"), str(tmp_path / "run")
    for name, *arguments in (
        ["prepare", "--source", f"folder:{tiny_folder}", "--out", out, "--size", "32", "--workers", "1"],
        ["shards", "verify", out],
        ["train", "--recipe", "demo", "--shards", out, "--run", run, *FLAGS.split()],
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
