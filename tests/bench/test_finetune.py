"""The measurement of fine-tuning, on tiny pictures: what it writes is what its tables read."""

from __future__ import annotations

import importlib
from pathlib import Path

import orjson
import pytest
import safetensors.torch

from food101_fast.models import build_model

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow  # a quarter of a minute; the script is for figures
def test_it_measures_both_starts_and_the_cached_probe(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("TQDM_DISABLE", "1")
    monkeypatch.setenv("FOOD101_FAST_CACHE", str(tmp_path / "cache"))
    model = "shufflenet_v2_x0_5"
    safetensors.torch.save_file(build_model(model, "none", 5).state_dict(), tmp_path / "w.safetensors")
    words = ["--source", str(tiny_folder), "--weights", str(tmp_path), "--backbones", f"{model}=w.safetensors"]
    words += ["--size", "32", "--image-size", "32", "--epochs", "1", "--batch-size", "16", "--limit", "60"]
    path = tmp_path / "finetune-cpu.json"
    importlib.import_module("finetune").main([*words, "--json", str(path)])
    document = orjson.loads(path.read_bytes())
    assert [run["start"] for run in document["runs"]] == ["ImageNet, statistics frozen", "ImageNet", "random"]
    assert all(len(run["curve"]) == 1 for run in document["runs"])
    (probe,) = document["probes"]
    assert [file["reused"] for file in probe["first"]["probe"]["features"]] == [False, False]
    assert [file["reused"] for file in probe["second"]["probe"]["features"]] == [True, True]
    assert probe["first"]["val"] == probe["second"]["val"]
    assert "probe with features from the cache: val top-1" in capsys.readouterr().out
    blocks = importlib.import_module("finetune_blocks")
    monkeypatch.setattr(blocks, "result", lambda name: document)
    monkeypatch.setattr(blocks, "RESULTS", tmp_path)
    assert blocks.training().count(f"`{model}`") == 3
    assert f"{probe['first']['test']['top1']:.3f} (" in blocks.probes()
