"""The range test suggests a rate that trains, for any recipe, and leaves everything else as it was."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from PIL import Image
from torch import nn

from food101_fast.errors import UserError
from food101_fast.prepare import PrepareSettings, prepare
from food101_fast.shards import ShardSet
from food101_fast.train import Hooks, Recipe
from food101_fast.train.lr_range import HIGHEST, LOWEST, STEPS, LrRange, find_lr, read_curve
from food101_fast.train.step import TrainStep
from tests.conftest import contents

Command = Callable[..., tuple[int, str, str]]

TINY = Recipe(model="shufflenet_v2_x0_5", weights="none", image_size=32, epochs=2, batch_size=16)


def small_model(*_: object) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, stride=4), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    out = tmp_path_factory.mktemp("demo") / "shards"
    prepare(PrepareSettings(source="demo:", out=out, size=32, limit=300, workers=1))
    return ShardSet.open(out)


@pytest.fixture(scope="module")
def on_demo(demo: ShardSet) -> LrRange:
    return find_lr(demo, dataclasses.replace(TINY, batch_size=32), device="cpu", hooks=Hooks(build_model=small_model))


@pytest.mark.slow
def test_the_suggestion_on_drawn_pictures_is_sane(on_demo: LrRange) -> None:
    """Adam on a small network: between what changes nothing and what diverges."""
    assert 1e-4 < on_demo.learning_rate < 0.1
    assert on_demo.learning_rate == min(on_demo.steepest, on_demo.tenth_of_minimum)
    assert on_demo.rates[0] == pytest.approx(LOWEST)
    assert len(on_demo.losses) == len(on_demo.rates) <= STEPS
    assert on_demo.losses[0] == pytest.approx(math.log(10), rel=0.2)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_curve(demo: ShardSet, on_demo: LrRange) -> None:
    recipe = dataclasses.replace(TINY, batch_size=32, learning_rate=7.0, schedule="cosine", warmup_epochs=1)
    again = find_lr(demo, recipe, device="cpu", hooks=Hooks(build_model=small_model))
    assert again.losses == pytest.approx(on_demo.losses, rel=1e-4)  # rates are computed from another highest one


@pytest.mark.parametrize(
    "changes",
    [
        {"preset": "trivial", "label_smoothing": 0.1, "ema_decay": 0.9, "compile": "on"},
        {"optimizer": "sgd", "layer_decay": 0.5, "unfreeze_epochs": 1, "start_size": 32, "image_size": 64},
        {"optimizer": "adamw", "weight_decay": 0.1, "accumulate": 2, "clip_norm": 1.0, "amp": "bf16"},
    ],
)
def test_any_recipe_can_be_tested(changes: dict[str, Any], demo: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    phases = set()
    update = TrainStep.update

    def noted(self: TrainStep, *arguments: Any, **named: Any) -> Any:
        phases.add((self.phase.image_size, self.phase.frozen))
        return update(self, *arguments, **named)

    monkeypatch.setattr(TrainStep, "update", noted)
    recipe = dataclasses.replace(TINY, **changes)
    found = find_lr(demo, recipe, device="cpu", hooks=Hooks(build_model=small_model), steps=40)
    assert LOWEST <= found.learning_rate < HIGHEST
    assert phases == {(recipe.image_size, 0)}


def test_the_command_writes_a_picture_and_nothing_else(
    tiny_path: Path, tiny_run: Path, tmp_path: Path, command: Command
) -> None:
    path = tmp_path / "rates.png"
    before = contents(tiny_run), contents(tiny_path)
    flags = ("--model", "shufflenet_v2_x0_5", "--weights", "none", "--image-size", "32", "--batch-size", "16")
    arguments = ("train", "--shards", str(tiny_path), "--device", "cpu", "--find-lr", str(path), *flags)
    code, out, _ = command(*arguments, "--run", str(tiny_run))
    assert code == 0
    assert "learning rate: " in out
    assert str(path) in out
    with Image.open(path) as picture:
        assert picture.width > 500
        assert picture.convert("RGB").getpixel((2, 2)) == (255, 255, 255)
    assert (contents(tiny_run), contents(tiny_path)) == before
    assert [file.name for file in tmp_path.iterdir()] == ["rates.png"]


def test_the_json_is_one_line(
    demo: ShardSet, on_demo: LrRange, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from food101_fast.train.lr_range import show_range_test

    exploded = dataclasses.replace(on_demo, losses=(*on_demo.losses[:-1], math.nan))
    show_range_test(exploded, tmp_path / "a.png", as_json=True)
    result = orjson.loads(capsys.readouterr().out)
    assert result["learning_rate"] == on_demo.learning_rate
    assert result["losses"][-1] is None
    assert Path(result["picture"]).is_file()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--find-lr {folder}/a.jpg", "a.jpg should be the name of a PNG file"),
        ("--find-lr {folder}/gone/a.png", "there is no folder {folder}/gone; make it"),
        ("--find-lr {folder}/a.png --resume", "--find-lr and --resume cannot be combined"),
    ],
)
def test_what_it_can_not_do_is_one_sentence(flags: str, message: str, tmp_path: Path, command: Command) -> None:
    given = flags.format(folder=tmp_path).split()
    code, out, err = command("train", "--shards", "nowhere", *given)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message.format(folder=tmp_path) in err


def test_ranks_are_refused(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = command("train", "--shards", "nowhere", "--find-lr", str(tmp_path / "a.png"))
    assert (code, err) == (2, "error: --find-lr trains on one device; leave torchrun out\n")


RATES = np.geomspace(LOWEST, HIGHEST, STEPS).tolist()


def curve(*, descent_at: float, rise_at: float, noise: float) -> list[float]:
    """A loss that falls by 2 around one rate and explodes at another."""
    draws = np.random.default_rng(0).normal(scale=noise, size=STEPS)
    x, down, up = np.log10(RATES), math.log10(descent_at), math.log10(rise_at)
    return (3 - 2 / (1 + np.exp(-4 * (x - down))) + np.exp(6 * (x - up)) + draws).tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("descent_at", [1e-4, 1e-3, 1e-2])
def test_the_rules_read_what_the_curve_has(descent_at: float, noise: float) -> None:
    found = read_curve(RATES, curve(descent_at=descent_at, rise_at=100 * descent_at, noise=noise))
    assert abs(math.log10(found.steepest / descent_at)) < 0.5
    assert descent_at < 10 * found.tenth_of_minimum < 100 * descent_at
    assert found.learning_rate <= found.steepest


def test_losses_that_are_not_finite_are_left_out() -> None:
    losses = curve(descent_at=1e-3, rise_at=0.1, noise=0.0)
    cut = next(index for index, rate in enumerate(RATES) if rate > 0.05)
    found = read_curve(RATES[: cut + 1], [*losses[:cut], math.inf])
    assert all(map(math.isfinite, found.smoothed))
    assert abs(math.log10(found.steepest / 1e-3)) < 0.5
    with pytest.raises(UserError, match="the loss was NaN or Inf after 1 steps"):
        read_curve(RATES[:2], [2.0, math.nan])
    with pytest.raises(UserError, match="the loss only rose"):
        read_curve(RATES, np.geomspace(1, 5, STEPS).tolist())


def test_the_test_ends_where_the_loss_is_not_finite(demo: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    update, count = TrainStep.update, iter(range(1000))

    def planted(self: TrainStep, *arguments: Any, **named: Any) -> Any:
        loss, correct = update(self, *arguments, **named)
        return (loss * math.nan if next(count) == 60 else loss), correct

    monkeypatch.setattr(TrainStep, "update", planted)
    found = find_lr(demo, TINY, device="cpu", hooks=Hooks(build_model=small_model))
    assert len(found.losses) <= 61
    assert all(map(math.isfinite, found.smoothed))
