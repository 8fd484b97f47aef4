"""The speed run: what counts, and what two runs with one seed have in common."""

from __future__ import annotations

import importlib
from pathlib import Path

import orjson
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow  # training three times takes a while, and test_gpu_script runs the script
@pytest.mark.parametrize(("target", "reached"), [("0", True), ("1.1", False)])
def test_the_mean_over_the_seeds_decides(
    target: str, reached: bool, tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("TQDM_DISABLE", "1")
    speedrun = importlib.import_module("speedrun")
    words = ["--model", "shufflenet_v2_x0_5", "--weights", "none", "--image-size", "32", "--start-size", "None"]
    words += ["--epochs", "2", "--batch-size", "16", "--seeds", "2", "--target", target, "--device", "cpu"]
    speedrun.main(["--shards", str(tiny_path), "--json", str(tmp_path / "speedrun.json"), *words])
    document = orjson.loads((tmp_path / "speedrun.json").read_bytes())
    verdict, runs = document["verdict"], document["runs"]
    assert verdict["reached"] is reached
    assert len(runs) == 2
    assert verdict["top1"]["mean"] == pytest.approx(sum(run["epochs"][-1]["val_top1"] for run in runs) / 2)
    assert verdict["seconds"]["lowest"] == min(run["seconds"] for run in runs)
    # On the CPU one seed gives one result; two seeds do not.
    assert verdict["seed_1_twice"]["equal_tensors"] == verdict["seed_1_twice"]["tensors"]
    assert runs[0]["epochs"][0]["train_loss"] != runs[1]["epochs"][0]["train_loss"]
    assert "def main(" in document["code"]
    assert f"{'at least' if reached else 'below'} the target" in capsys.readouterr().out
