"""Trials of the accuracy measurements: a finished run is used again, and means have the right standard errors."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from food101_fast.errors import UserError
from food101_fast.train import Recipe

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def official(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("official")


def test_means_and_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    estimates = importlib.import_module("estimates")
    assert estimates.mean_and_error([0.5]) == {"mean": 0.5, "standard_error": None}
    found = estimates.mean_and_error([0.4, 0.5, 0.6])
    assert found["mean"] == pytest.approx(0.5)
    assert found["standard_error"] == pytest.approx(0.1 / 3**0.5)  # the standard deviation is 0.1
    found = estimates.difference([0.4, 0.5, 0.6], [0.2, 0.4])
    assert found["mean"] == pytest.approx(0.2)
    assert found["standard_error"] == pytest.approx((0.01 / 3 + 0.02 / 2) ** 0.5)
    assert estimates.difference([0.4, 0.6], [0.2])["standard_error"] is None


def test_a_finished_run_is_used_again(
    official: Any, tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(
        model="shufflenet_v2_x0_5", weights="none", image_size=32, start_size=32, epochs=2, batch_size=8, patience=None
    )
    trial = official.Trial(name="a", shards=tiny_path, folder=tmp_path / "run", recipe=recipe)
    said: list[str] = []
    first = official.all_tried([trial], 1, lambda of, outcome: said.append(official.line(of.name, outcome)))
    (outcome,) = first["a"]
    assert len(outcome.curve) == 2
    assert outcome.val_top1 == pytest.approx(max(outcome.curve))
    assert outcome.images == 2 * 56  # 58 images in batches of 8; the rest is dropped
    assert outcome.pixels == outcome.images * 32**2
    assert said[0].startswith("a, seed 0: val top-1 ")
    assert official.summed_up([outcome])["test_top1"] == {"mean": outcome.test_top1, "standard_error": None}

    def refuse(*_: Any, **__: Any) -> None:
        raise UserError("trained again")

    monkeypatch.setattr(official, "train", refuse)
    assert official.tried(trial) == outcome
    with pytest.raises(UserError, match="trained again"):
        official.tried(replace(trial, recipe=replace(recipe, seed=1)))
