"""The script that measures everything on a GPU, in the reduced form that runs on any machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.sh"
pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


def run(**variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("OUT", "FOOD101_64PX")}
    environment |= {"PYTHON": sys.executable, "DEVICE": "cpu"} | variables
    return subprocess.run(["bash", str(SCRIPT)], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow  # one and a half minutes; the gate runs it beside the suite
def test_it_runs_to_its_end_and_sums_up(tmp_path: Path) -> None:
    done = run(OUT=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    parts = {"device", "stages-mobilenet_v2", "steps", "transforms", "pipelines", "peers"}
    assert {path.name for path in tmp_path.iterdir()} == {f"{part}-cpu.json" for part in parts}
    for path in tmp_path.iterdir():
        found = orjson.loads(path.read_bytes())
        assert found["provenance"]["machine"]["device"] == "cpu"
        assert found["settings"]
    before, _, summary = done.stdout.partition("== in short")
    titles = {line[:57].strip() for line in summary.splitlines()}
    assert {
        "loader: raw, residence stream",
        "mobilenet_v2: step from shards",
        "step: mobilenet_v2 64 px, off, eager",
        "preset baseline",
        "pipeline, training: food101_fast",
        "loading, raw: food101_fast, 1 thread",
    } <= titles
    assert "no time was left" not in before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so_at_once(tmp_path: Path) -> None:
    done = run(OUT=str(tmp_path), DEVICE="cuda")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "torch finds no CUDA device" in done.stderr


def test_results_of_the_reduced_form_never_go_where_the_real_ones_are() -> None:
    done = run()
    assert done.returncode == 2
    assert done.stderr.startswith("error: DEVICE=cpu measures nothing worth keeping; set OUT")
