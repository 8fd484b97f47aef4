"""A replayed step has the batch, the loss and the gradients that it had in the run, and leaves the run as it was."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from PIL import Image
from torch import nn

from food101_fast.errors import UserError
from food101_fast.loader import Batch
from food101_fast.runs.run import locked_run
from food101_fast.shards import ShardSet
from food101_fast.train import Hooks, Recipe, RunOptions, train
from food101_fast.train.replay.job import replay
from food101_fast.train.replay.results import Replay
from food101_fast.train.step import TrainStep
from tests.conftest import contents
from tests.train.launch import plain_model

# With everything that changes from step to step: see test_resume.
RECIPE = Recipe(
    model="mnasnet0_5", weights="none", image_size=64, start_size=32, preset="trivial", epochs=3, batch_size=16,
    optimizer="adamw", learning_rate=1e-3, schedule="cosine", warmup_epochs=0.5, weight_decay=0.01, ema_decay=0.9,
    unfreeze_epochs=1, accumulate=2, clip_norm=0.5, label_smoothing=0.1, patience=None,
)  # fmt: skip
STEPS = 3  # in an epoch of the 58 training images
TINY = Recipe(model="shufflenet_v2_x0_5", weights="none", image_size=32, epochs=2, batch_size=8, learning_rate=1e-3)
CPU = torch.device("cpu")


@dataclasses.dataclass
class Seen:
    """What a step was in the run."""

    ids: list[int]
    loss: float
    norm: float


class Notes:
    """Notes every step of a run: ids, loss, and the norm of the gradients before they are clipped."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.steps: dict[int, Seen] = {}
        number, ids = 0, [0]
        total, backward = torch.nn.utils.get_total_norm, TrainStep.backward
        loss = 0.0

        def before_step(step: TrainStep, count: int, batch: Batch) -> None:
            nonlocal number, ids
            number, ids = count, batch.ids.tolist()

        def noted_backward(step: TrainStep, *arguments: Any) -> Any:
            nonlocal loss
            results = backward(step, *arguments)
            loss = float(results[0])
            return results

        def noted_norm(gradients: Any) -> torch.Tensor:
            norm = total(gradients)
            self.steps[number] = Seen(ids, loss, float(norm))
            return norm

        patch.setattr(TrainStep, "backward", noted_backward)
        patch.setattr(torch.nn.utils, "get_total_norm", noted_norm)
        self.hooks = Hooks(before_step=before_step)


@pytest.fixture(scope="module")
def noted(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, Seen]]:
    """A run with checkpoints after each epoch, and what its steps were."""
    run = tmp_path_factory.mktemp("noted") / "run"
    with pytest.MonkeyPatch.context() as patch:
        notes = Notes(patch)
        train(ShardSet.open(tiny_path), run, RECIPE, device="cpu", hooks=notes.hooks, options=RunOptions(keep=9))
    assert sorted(notes.steps) == list(range(3 * STEPS))
    return run, notes.steps


@pytest.mark.parametrize("number", [0, 2, 4, 6])
def test_a_replayed_step_is_the_same_to_the_bit(number: int, noted: tuple[Path, dict[int, Seen]]) -> None:
    run, steps = noted
    before = contents(run)
    found, batch, images, _ = replay(run, number, device=CPU)
    assert found.differences == ()
    assert (found.checkpoint is None, found.steps_before) == (number < STEPS, number % STEPS)
    assert batch.ids.tolist() == [sample.id for sample in found.measured.samples] == steps[number].ids
    assert found.measured.loss == steps[number].loss
    assert found.measured.gradient_norm == steps[number].norm
    assert (found.epoch, found.step_of_epoch) == (number // STEPS + 1, number % STEPS + 1)
    assert images.shape[-1] == found.image_size == (32 if number < 2 * STEPS else 64)
    assert contents(run) == before  # the run was only read


def test_what_is_shown_adds_up(noted: tuple[Path, dict[int, Seen]], tiny_shards: ShardSet) -> None:
    run, _ = noted
    found, batch, _, _ = replay(run, 4, device=CPU)
    measured = found.measured
    assert measured.gradient_norm == pytest.approx(
        math.sqrt(sum(layer.gradient_norm**2 for layer in measured.layers if layer.gradient_norm is not None)), rel=1e-5
    )
    assert sum(sample.cross_entropy for sample in measured.samples) / 16 == pytest.approx(measured.loss, rel=1e-5)
    assert not any(vars(measured.nonfinite).values())
    for sample, label in zip(measured.samples, batch.labels.tolist(), strict=True):
        assert sample.key == tiny_shards.split("train").key(sample.id)
        assert sample.label == tiny_shards.classes[label]
        assert sum(sample.target.values()) == pytest.approx(1, abs=1e-6)
    crops = [sample.augmentation["0 RandomResizedCrop"] for sample in measured.samples]
    assert len({tuple(crop.values()) for crop in crops}) > 8  # each has its own
    assert all(0 <= crop["top"] <= crop["top"] + crop["height"] <= 32 for crop in crops)


def test_frozen_layers_have_no_norm(noted: tuple[Path, dict[int, Seen]]) -> None:
    found = replay(noted[0], 1, device=CPU)[0]
    *body, head = found.measured.layers
    assert all(layer.gradient_norm is None and layer.parameters == 0 for layer in body)
    assert head.gradient_norm == pytest.approx(found.measured.gradient_norm)


class Breaks(nn.Module):
    """Lets images through, but for dark ones, of which it makes Inf."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        dark = images.mean(dim=(1, 2, 3), keepdim=True) < 0
        return torch.where(dark, torch.full_like(images, float("inf")), images)


def breaking_model(*arguments: object) -> nn.Module:
    return nn.Sequential(nn.Identity(), Breaks(), plain_model())


def test_the_layer_and_the_samples_that_are_not_finite_are_named(tiny_shards: ShardSet, tmp_path: Path) -> None:
    run, hooks = tmp_path / "run", Hooks(build_model=breaking_model)
    with pytest.raises(UserError, match=r"--replay \d+`"):
        train(tiny_shards, run, TINY, device="cpu", hooks=hooks, options=RunOptions(most_skipped=1))
    step = orjson.loads((run / "nonfinite.json").read_bytes())["step"]
    found = replay(run, step, device=CPU, hooks=hooks)[0].measured
    assert not math.isfinite(found.loss)
    assert found.nonfinite.first_layer == "1 (Breaks)"
    assert 0 < len(found.nonfinite.samples) < 8
    assert found.nonfinite.gradients
    assert not found.nonfinite.weights
    assert not found.nonfinite.images
    losses = {sample.id: sample.cross_entropy for sample in found.samples}
    assert {i for i, loss in losses.items() if not math.isfinite(loss)} == set(found.nonfinite.samples)


Command = Callable[..., tuple[int, str, str]]


def test_the_command_writes_the_batch_and_says_the_loss(tiny_run: Path, tmp_path: Path, command: Command) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    code, out, err = command("train", "--run", str(run), "--replay", "8", "--device", "cpu", "--quiet")
    assert (code, err) == (0, "")
    document = orjson.loads((run / "replay-8" / "replay.json").read_bytes())
    assert document.keys() == {field.name for field in dataclasses.fields(Replay)}
    assert "step 8: epoch 2, step 2 of 7, 32 px, learning rate 4.9e-05; 1 step after checkpoint" in out
    assert f"loss {document['measured']['loss']:.6g}, top-1" in out
    with Image.open(run / "replay-8" / "batch-01.png") as picture:
        assert picture.width > 8 * 2 * 32
    assert not (run / "replay-8" / "batch-02.png").exists()


def test_a_run_that_is_being_trained_is_said(tiny_run: Path, tmp_path: Path, command: Command) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    arguments = ("train", "--run", str(run), "--replay", "7", "--device", "cpu", "--json")
    with locked_run(run):
        code, out, err = command(*arguments)
    assert code == 0
    assert f"warning: {run} is being trained" in err
    assert orjson.loads(out)["checkpoint"] is not None
    assert orjson.loads(out)["steps_before"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--replay", "14"], "--replay 14 is after the end of"),
        (["--replay", "-1"], "--replay -1 should be at least 0"),
        (["--replay=3", "--learning-rate", "1"], "unknown flag --learning-rate"),
        (["--replay", "3", "--shards", "nowhere"], "there is no shards folder nowhere"),
        (["--replay", "3", "--run", "nowhere"], "nowhere has no run"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: list[str], message: str, tiny_run: Path, command: Command) -> None:
    run = [] if "--run" in arguments else ["--run", str(tiny_run)]
    code, _, err = command("train", *run, *arguments, "--device", "cpu")
    assert (code, err.count("\n")) == (2, 1), err
    assert message in err
    assert not list(tiny_run.glob("replay-*"))


def test_what_differs_from_the_run_is_said(tiny_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    document = orjson.loads((run / "recipe.json").read_bytes())
    document["machine"] |= {"ranks": 2, "processor": "abacus"}
    document["versions"]["torch"] = "1.0"
    (run / "recipe.json").write_bytes(orjson.dumps(document))
    found, _, _, step = replay(run, 3, device=CPU)
    assert [text.partition(":")[0] for text in found.differences] == [
        "the run had 2 ranks, and one process computes their batch in as many chunks",
        f"processor was abacus and is {orjson.loads((tiny_run / 'recipe.json').read_bytes())['machine']['processor']}",
        f"torch was 1.0 and is {torch.__version__}",
    ]
    assert step.recipe.accumulate == 2  # BatchNorm sees what a rank saw


def test_a_damaged_checkpoint_only_costs_time(noted: tuple[Path, dict[int, Seen]], tmp_path: Path) -> None:
    run = Path(shutil.copytree(noted[0], tmp_path / "run"))
    for name in ("epoch-0001", "best"):
        shutil.rmtree(run / "checkpoints" / name)
    (run / "checkpoints" / "epoch-0002" / "state.pt").write_bytes(b"damaged")
    found = replay(run, 7, device=CPU)[0]
    assert (found.checkpoint, found.steps_before) == (None, 7)
    assert found.measured.loss == noted[1][7].loss
