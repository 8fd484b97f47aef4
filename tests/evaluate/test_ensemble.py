"""Averages of several runs and of several views are what their definition says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import pytest
import torch
from scipy.special import softmax

from food101_fast.errors import UserError
from food101_fast.evaluate import evaluate, evaluate_ensemble
from food101_fast.evaluate.views import averaged, views
from food101_fast.prepare import PrepareSettings, prepare
from food101_fast.shards import ShardSet
from food101_fast.train import Recipe, train
from food101_fast.transforms import EvalSpec
from tests.conftest import write_folder


@pytest.fixture(scope="module")
def runs(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folders = [tmp_path_factory.mktemp("runs") / f"seed-{seed}" for seed in range(2)]
    for seed, folder in enumerate(folders):
        recipe = Recipe(model="shufflenet_v2_x0_5", weights="none", image_size=32, epochs=1, batch_size=8, seed=seed)
        train(ShardSet.open(tiny_path), folder, recipe, device="cpu")
    return folders


def test_an_ensemble_is_the_mean_of_its_probabilities(
    runs: list[Path], command: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, _ = command("evaluate", "--run", *map(str, runs), "--device", "cpu")
    assert code == 0
    assert [line for line in out.splitlines() if line in (*map(str, runs), "average of 2 runs")] == [
        *map(str, runs), "average of 2 runs",
    ]  # fmt: skip
    held = [np.load(run / "predictions.npz") for run in runs]
    mean = np.mean([softmax(arrays["logits"].astype(np.float64), axis=1) for arrays in held], axis=0)
    together = np.load(runs[0] / "ensemble_predictions.npz")
    np.testing.assert_allclose(softmax(together["logits"], axis=1), mean, rtol=1e-5)
    metrics = orjson.loads((runs[0] / "test_ensemble_metrics.json").read_bytes())
    assert metrics["top1"] == (mean.argmax(axis=1) == held[0]["labels"]).mean()
    for member, run in zip(metrics["members"], runs, strict=True):
        own = orjson.loads((run / "test_metrics.json").read_bytes())
        assert member == {"run": str(run), **{key: own[key] for key in ("weights", "tta", "top1", "top5", "loss")}}
    assert f"top-1 {metrics['top1']:.4f} (95 % interval" in out.partition("average of 2 runs")[2]


def test_runs_of_other_shards_are_not_averaged(runs: list[Path], tmp_path: Path) -> None:
    source = write_folder(tmp_path / "other", {"a": 20, "b": 20})
    prepare(PrepareSettings(source=f"folder:{source}", out=tmp_path / "shards", size=32, workers=1))
    recipe = Recipe(model="shufflenet_v2_x0_5", weights="none", image_size=32, epochs=1, batch_size=8)
    train(ShardSet.open(tmp_path / "shards"), tmp_path / "run", recipe, device="cpu")
    with pytest.raises(UserError, match="different shards can't be averaged"):
        evaluate_ensemble([runs[0], tmp_path / "run"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--run"], "--run needs the folder of a run"), (["--run", "a", "a"], "--run names a run twice")],
)
def test_a_mistake_is_one_sentence(
    command: Callable[..., tuple[int, str, str]], arguments: list[str], message: str
) -> None:
    code, _, err = command("evaluate", *arguments)
    assert code == 2
    assert message in err


def test_views_are_the_centre_the_mirror_and_the_corners() -> None:
    image = torch.randint(0, 256, (2, 3, 80, 80), dtype=torch.uint8)
    spec = EvalSpec.of(48, 80)
    resize, _, ending = spec.preset().transforms
    whole = resize(image)
    room = whole.shape[-1] - 48
    central, mirrored = (view(image) for view in views("flip", spec))
    assert torch.equal(mirrored, central.flip(-1))
    crops = [view(image) for view in views("crops", spec)]
    assert torch.equal(crops[0], central)
    for crop, (top, left) in zip(crops[1:], [(0, 0), (0, room), (room, 0), (room, room)], strict=True):
        assert torch.equal(crop, ending(whole[..., top : top + 48, left : left + 48]))
    assert len(views("none", spec)) == 1
    with pytest.raises(UserError, match="--tta crops: the stored images are too small for different crops of 48 px"):
        views("crops", EvalSpec.of(48, 48))


def test_averaging_keeps_probabilities() -> None:
    parts = [np.random.default_rng(seed).normal(0, 30, (5, 4)).astype(np.float32) for seed in range(3)]
    mean = np.mean([softmax(part.astype(np.float64), axis=1) for part in parts], axis=0)
    np.testing.assert_allclose(softmax(averaged(parts).astype(np.float64), axis=1), mean, rtol=1e-4, atol=1e-7)
    assert averaged(parts[:1]) is parts[0]


def test_test_time_augmentation_averages_the_views(runs: list[Path]) -> None:
    plain = evaluate(runs[1], device="cpu", split="val")
    mirrored = evaluate(runs[1], device="cpu", split="val", tta="flip")
    assert mirrored.metrics.tta == "flip"
    assert mirrored.metrics.loss != plain.metrics.loss
    assert mirrored.metrics.loss == pytest.approx(plain.metrics.loss, rel=0.3)
