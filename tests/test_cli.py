"""The commands as a user starts them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from food101_fast import __version__, cli


def script(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys; from food101_fast.cli import main; sys.argv[1:] = {list(arguments)!r}; main()"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_is_complete(name: str, command: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = command(name, "--help")
    assert code == 0
    assert f"python -m food101_fast.{name}" in out
    assert {"prepare": "--out", "shards": "verify", "predict": "--top-k", "export": "--onnx"}.get(
        name, "--shards"
    ) in out


def test_a_wrong_flag_exits_with_2(command: Callable[..., tuple[int, str, str]]) -> None:
    code, _, err = command("prepare", "--no-such-flag", "1")
    assert code == 2
    assert "no-such-flag" in err


def test_the_script_lists_and_runs_commands() -> None:
    listing = script("--help")
    assert listing.returncode == 0
    assert all(name in listing.stdout for name in cli.COMMANDS)
    assert script("--version").stdout.strip() == __version__
    wrong = script("fly")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    mistake = script("train", "--shards", "nowhere", "--run", "nowhere", "--recipe", "demo")
    assert (mistake.returncode, mistake.stderr.count("\n")) == (2, 1)
    assert "there is no shards folder nowhere" in mistake.stderr


def test_ctrl_c_while_torch_is_imported_is_no_traceback(tmp_path: Path) -> None:
    """In place of torch there is a module that interrupts the process as it is imported."""
    (tmp_path / "torch.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[1]}"}
    command = [sys.executable, "-m", "food101_fast.train", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_ctrl_c_is_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit, match="130"):
        cli.exit_with(interrupted, [])
    assert capsys.readouterr().err == "interrupted\n"
