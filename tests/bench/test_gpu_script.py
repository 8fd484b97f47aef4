"""The script that measures everything on a GPU, in the reduced form that runs on any machine."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
OWN = ("OUT", "WORK", "BUDGET", "WHEELS", "REPETITIONS", "FOOD101_64PX", "PYTHONPATH", "PYTEST_ADDOPTS")
pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")

# Makes a program wait for ever before it appends its second row (its first line says that it began), so that a test
# can cut it in the middle for sure.
SECOND_ROW_WAITS = """
import os, sys, threading
opened = []

def hook(event, arguments):
    if event == "open" and arguments[0] == os.environ.get("TEST_ROWS"):
        opened.append(event)
        if len(opened) == 3:
            threading.Event().wait()

sys.addaudithook(hook)
"""


def environment(**variables: object) -> dict[str, str]:
    # The script's own tests must not take themselves for workers of these.
    own = {name: value for name, value in os.environ.items() if name not in OWN and not name.startswith("PYTEST_XDIST")}
    defaults = {"PYTHON": sys.executable, "DEVICE": "cpu", "BUDGET": "4000", "WHEELS": "/there/are/none"}
    return own | defaults | {name: str(value) for name, value in variables.items()}


def run(*parts: str, **variables: object) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(BENCHMARKS / "gpu.sh"), *parts]
    return subprocess.run(command, env=environment(**variables), capture_output=True, text=True, check=False)


def begin(log: Path, *parts: str, **variables: object) -> subprocess.Popen[bytes]:
    command = ["bash", str(BENCHMARKS / "gpu.sh"), *parts]
    with log.open("wb") as output:
        return subprocess.Popen(command, env=environment(**variables), stdout=output, stderr=subprocess.STDOUT)


@pytest.fixture
def waits(tmp_path: Path) -> Path:
    """A folder for PYTHONPATH in which every program waits before its second row."""
    folder = tmp_path / "waits"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SECOND_ROW_WAITS)
    return folder


def lines_of(part: str, path: Path) -> list[dict[str, Any]]:
    lines = path.read_bytes().splitlines() if path.exists() else []
    return [line for line in map(orjson.loads, lines) if line["part"] == part]


def first_row(part: str, path: Path, script: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Waits for a part's first row; the part's process, and the row's name."""
    limit = time.monotonic() + 300
    while time.monotonic() < limit and script.poll() is None:
        lines = lines_of(part, path)
        if any(line["kind"] == "row" for line in lines):
            (process,) = (line["pid"] for line in lines if line["kind"] == "begin")
            (name,) = (line["name"] for line in lines if line["kind"] == "row")
            return process, name
        time.sleep(0.02)
    script.terminate()
    script.wait()
    raise AssertionError(f"{part} has no row")


def is_gone(process: int) -> bool:
    """Whether it has ended; one that nobody has asked about yet has, too."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


def names(path: Path) -> dict[str, list[str]]:
    parts = orjson.loads(path.read_bytes())["parts"]
    return {name: [row["name"] for row in part["rows"]] for name, part in parts.items()}


PARTS = {"prepare", "tests", "job", "steps", "device", "speedrun", "presets", "bench", "job-variants", "compiled"}
PARTS |= {"resnet50", "accuracy"}


@dataclass(frozen=True)
class Whole:
    """What a run of all parts left."""

    done: subprocess.CompletedProcess[str]
    out: Path
    shared: Mapping[str, object]
    """Variables that it was given, with the shards that it prepared."""


@pytest.fixture(scope="module")
def whole(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The whole script, with a small data set in place of Food-101 at 64 px."""
    folder = tmp_path_factory.mktemp("whole")
    shared = {"WORK": folder / "work", "FOOD101_64PX": tiny_folder, "HF_HOME": folder / "cache"}
    return Whole(run(OUT=folder / "out", **shared), folder / "out", shared)


@pytest.mark.slow  # all of these take five minutes: run them after a change of gpu.sh or of what it calls
def test_it_runs_to_its_end_and_sums_up(whole: Whole) -> None:
    assert whole.done.returncode == 0, whole.done.stdout + whole.done.stderr
    files = {"gpu-cpu.json", "gpu-cpu.jsonl", "gpu-cpu.log", "tests-cpu.log"}
    assert {path.name for path in whole.out.iterdir()} == files
    parts = orjson.loads((whole.out / "gpu-cpu.json").read_bytes())["parts"]
    assert {name: part["state"] for name, part in parts.items()} == dict.fromkeys(PARTS | {"prepare-64px"}, "complete")
    for name, part in parts.items():
        if name == "prepare-64px":  # prepare itself, which writes no rows
            continue
        assert part["rows"], name
        assert part["provenance"]["versions"]["torch"] == torch.__version__
        if name != "tests":  # which the machine chooses the device of
            assert part["provenance"]["machine"]["device"] == "cpu"
            assert all(row["name"] in whole.done.stdout for row in part["rows"])
    found = names(whole.out / "gpu-cpu.json")
    eager = {"food101_fast", "bare", "timm", "torchvision", "whole step"}
    title = "mobilenet_v2 32 px, batch 8, off,"
    assert {f"{title} eager: {name}" for name in eager} <= set(found["steps"])
    (graph,) = (row for row in parts["steps"]["rows"] if row["name"] == f"{title} cuda-graph: whole step")
    assert "cuda" in graph["reason"].lower()
    assert found["job"] == ["default, epoch 1 done", "default, epoch 2 done", "default, last checkpoint"]
    assert {"raw, residence stream", "jpeg, residence device, nvJPEG"} <= set(found["device"])
    assert {"crop + flip, batch 8: ours", "preset strong, batch 8: ours"} <= set(found["presets"])


@pytest.mark.slow
def test_each_part_is_cut_in_the_middle(whole: Whole, tmp_path: Path, waits: Path) -> None:
    out, seen = tmp_path / "out", {}
    parts = ["job", "steps", "device", "speedrun", "presets", "resnet50", "accuracy"]
    script = begin(tmp_path / "log", *parts, OUT=out, PYTHONPATH=waits, **whole.shared)
    for part in parts:
        process, seen[part] = first_row(part, out / "gpu-cpu.jsonl", script)
        os.kill(process, signal.SIGKILL)
    assert script.wait() == 0
    assert names(out / "gpu-cpu.json") == {part: [name] for part, name in seen.items()}
    merged = orjson.loads((out / "gpu-cpu.json").read_bytes())["parts"]
    assert {part["state"] for part in merged.values()} == {"cut"}
    assert all(part["provenance"]["versions"] for part in merged.values())


@pytest.mark.slow
def test_preparing_and_tests_are_cut_in_the_middle(tmp_path: Path, waits: Path) -> None:
    out = tmp_path / "out"
    script = begin(tmp_path / "log", "prepare", "tests", "job", OUT=out, PYTHONPATH=waits)
    seen = {}
    for part in ("prepare", "tests"):
        process, seen[part] = first_row(part, out / "gpu-cpu.jsonl", script)
        os.kill(process, signal.SIGKILL)
    assert script.wait() == 0
    assert "left out: job: there are no shards" in (tmp_path / "log").read_text()
    assert names(out / "gpu-cpu.json") == {part: [name] for part, name in seen.items()} | {"job": []}
    parts = orjson.loads((out / "gpu-cpu.json").read_bytes())["parts"]
    assert [parts[part]["state"] for part in ("prepare", "tests")] == ["cut", "cut"]


@pytest.mark.slow
@pytest.mark.parametrize("signaled", [signal.SIGTERM, signal.SIGKILL])
def test_the_script_itself_is_cut(tmp_path: Path, waits: Path, signaled: signal.Signals) -> None:
    out = tmp_path / "out"
    script = begin(tmp_path / "log", "presets", OUT=out, WORK=tmp_path / "work", PYTHONPATH=waits)
    process, name = first_row("presets", out / "gpu-cpu.jsonl", script)
    script.send_signal(signaled)
    if signaled == signal.SIGTERM:
        assert script.wait() == 143
        until(lambda: is_gone(process))
    else:
        assert script.wait() == -signal.SIGKILL
        assert not (out / "gpu-cpu.json").exists()
        os.killpg(os.getpgid(process), signal.SIGKILL)
        summary = [sys.executable, str(BENCHMARKS / "summary.py"), "--rows", str(out / "gpu-cpu.jsonl")]
        paths = environment(PYTHONPATH=BENCHMARKS.parent)
        subprocess.run([*summary, "--json", str(out / "gpu-cpu.json")], env=paths, check=True, stdout=subprocess.PIPE)
    assert names(out / "gpu-cpu.json") == {"presets": [name]}
    assert orjson.loads((out / "gpu-cpu.json").read_bytes())["parts"]["presets"]["state"] == "cut"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so_at_once(tmp_path: Path) -> None:
    done = run(OUT=tmp_path / "out", DEVICE="cuda")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "torch finds no CUDA device" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_part_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    done = run("steps", "stepps", OUT=tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no part stepps; choose from: prepare tests job")
    assert not (tmp_path / "out").exists()


def test_help_names_all_parts_and_variables() -> None:
    done = run("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "set -euo" not in done.stdout
    assert all(name in done.stdout for name in (*PARTS, "BUDGET", "FOOD101_FAST_COMMIT"))
