"""A run from start to end on tiny shards: same seed same numbers, resume, early stopping, and what is refused."""

from __future__ import annotations

import dataclasses
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import safetensors.torch
import torch

from food101_fast.compute.precision import Precision
from food101_fast.errors import UserError
from food101_fast.models import build_model
from food101_fast.runs.checkpoint import load_checkpoint, save_checkpoint
from food101_fast.runs.results import EpochRow
from food101_fast.runs.run import locked_run, new_run, read_run
from food101_fast.shards import ShardSet
from food101_fast.train import RECIPES, Hooks, Recipe, train
from food101_fast.train.step import TrainStep
from food101_fast.train.validate import Validation, validate
from tests.conftest import flip

TINY = Recipe(model="shufflenet_v2_x0_5", weights="none", image_size=32, epochs=3, batch_size=8, learning_rate=1e-3)


def changed(recipe: Recipe, **fields: Any) -> Recipe:
    return dataclasses.replace(recipe, **fields)


def without_times(metrics: list[EpochRow]) -> list[dict[str, Any]]:
    return [{key: value for key, value in vars(row).items() if key != "timing"} for row in metrics]


def weights(run: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(run / "checkpoints" / name / "model.safetensors")


def same_weights(a: Path, b: Path) -> bool:
    first, second = weights(a), weights(b)
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture(scope="module")
def finished(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[EpochRow]]:
    run = tmp_path_factory.mktemp("runs") / "run"
    return run, train(ShardSet.open(tiny_path), run, TINY, device="cpu").metrics


def test_a_run_leaves_what_it_found(finished: tuple[Path, list[EpochRow]], tiny_path: Path) -> None:
    run, metrics = finished
    lines = [orjson.loads(line) for line in (run / "metrics.jsonl").read_bytes().splitlines()]
    assert lines == [dataclasses.asdict(row) for row in metrics]
    assert [row.epoch for row in metrics] == [1, 2, 3]
    for row in metrics:
        assert 0 <= row.val_top1 <= row.val_top5 <= 1
        assert 0 <= row.timing.wait_share <= 1
        assert row.timing.images_per_second > 0
    stored = orjson.loads((run / "recipe.json").read_bytes())
    assert read_run(run).recipe == TINY
    assert stored["classes"] == list(ShardSet.open(tiny_path).classes)
    assert weights(run).keys() == weights(run, "best").keys()


def test_the_same_seed_gives_the_same_run(
    finished: tuple[Path, list[EpochRow]], tiny_shards: ShardSet, tmp_path: Path
) -> None:
    run, metrics = finished
    again = train(tiny_shards, tmp_path / "again", TINY, device="cpu").metrics
    assert without_times(again) == without_times(metrics)
    assert same_weights(run, tmp_path / "again")
    other = train(tiny_shards, tmp_path / "other", changed(TINY, seed=1, epochs=1), device="cpu").metrics
    assert without_times(other) != without_times(metrics[:1])


def test_a_resumed_run_equals_one_that_was_not_interrupted(
    finished: tuple[Path, list[EpochRow]], tiny_shards: ShardSet, tmp_path: Path
) -> None:
    run, metrics = finished
    train(tiny_shards, tmp_path / "run", changed(TINY, epochs=1), device="cpu")
    resumed = train(tiny_shards, tmp_path / "run", TINY, device="cpu", resume=True).metrics
    assert without_times(resumed) == without_times(metrics)
    assert same_weights(run, tmp_path / "run")


def test_a_checkpoint_cut_off_between_its_renames_is_found(
    finished: tuple[Path, list[EpochRow]], tiny_shards: ShardSet, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished[0], tmp_path / "run"))
    (run / "checkpoints" / "last").rename(run / "checkpoints" / "last.old")
    assert len(train(tiny_shards, run, changed(TINY, epochs=4), device="cpu", resume=True).metrics) == 4
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best", "last"]


def test_training_stops_when_validation_stops_rising(tiny_shards: ShardSet, tmp_path: Path) -> None:
    accuracies = iter([0.2, 0.5, 0.5, 0.4, 0.9])
    hooks = Hooks(validate=lambda *_, **__: Validation(loss=1.0, top1=next(accuracies), top5=1.0))
    recipe = changed(TINY, epochs=9, patience=2)
    metrics = train(tiny_shards, tmp_path / "run", recipe, device="cpu", hooks=hooks).metrics
    assert [row.val_top1 for row in metrics] == [0.2, 0.5, 0.5, 0.4]
    _, best = load_checkpoint(tmp_path / "run", "best")
    assert best["progress"]["epoch"] == 2


def test_validation_is_exact(tiny_shards: ShardSet) -> None:
    from food101_fast.loader import ShardLoader
    from food101_fast.transforms import eval_preset

    model = build_model("shufflenet_v2_x0_5", "none", 3).eval()
    preset, precision = eval_preset(32, 32), Precision("off", torch.device("cpu"))
    results = []
    for batch_size in (3, 100):
        loader = ShardLoader(tiny_shards, split="val", batch_size=batch_size, shuffle=False, drop_last=False)
        result = validate(model, loader, preset, precision)
        assert result is not None
        results.append(result)
    batch = next(iter(loader))
    with torch.inference_mode():
        logits = model(preset(batch.images, seed=0, epoch=0, ids=batch.ids))
    assert results[1].loss == pytest.approx(torch.nn.functional.cross_entropy(logits, batch.labels).item())
    assert results[1].top1 == pytest.approx((logits.argmax(1) == batch.labels).double().mean().item())
    assert results[1].top5 == 1.0
    assert vars(results[0]) == pytest.approx(vars(results[1]), rel=1e-5)


@pytest.mark.parametrize(
    "fields",
    [
        *({"preset": name} for name in ("strong", "trivial", "augmix")),
        {"mixup_alpha": 0.4, "erasing": 0.5, "label_smoothing": 0.1},
    ],
    ids=str,
)
def test_every_preset_trains_and_can_be_repeated(fields: dict[str, Any], tiny_shards: ShardSet, tmp_path: Path) -> None:
    """Also with mixed labels, of which the loss takes shares of classes."""
    recipe = changed(TINY, epochs=1, **fields)
    rows = [train(tiny_shards, tmp_path / name, recipe, device="cpu").metrics for name in "ab"]
    assert without_times(rows[0]) == without_times(rows[1])
    assert same_weights(tmp_path / "a", tmp_path / "b")
    assert 0 < rows[0][0].train_loss < 10
    assert 0 <= rows[0][0].train_top1 <= 1


@pytest.mark.parametrize(("amp", "dtype"), [("auto", torch.float32), ("off", torch.float32), ("bf16", torch.bfloat16)])
def test_precision_decides_what_the_forward_pass_computes_in(amp: str, dtype: torch.dtype) -> None:
    precision = Precision(amp, torch.device("cpu"))
    with precision.autocast():
        assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype == dtype
    assert precision.scaler.get_scale() == 1.0


def test_only_fp16_scales_gradients_and_skips_what_overflows() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 32), torch.nn.Flatten())
    step = TrainStep(changed(TINY, amp="fp16"), model, torch.device("cpu"))
    before = [parameter.clone() for parameter in step.model.parameters()]
    scale = step.precision.scaler.get_scale()
    images, labels = torch.full((4, 3, 32, 32), float("inf")), torch.zeros(4, dtype=torch.int64)
    step.update(images, labels)
    assert step.precision.scaler.get_scale() == scale / 2
    assert all(torch.equal(a, b) for a, b in zip(before, step.model.parameters(), strict=True))
    step.update(torch.ones(4, 3, 32, 32), labels)
    assert not torch.equal(before[0], next(iter(step.model.parameters())))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--recipe", "nothing"],
            "there is no recipe 'nothing'; choose from baseline, strong, fast, unfreeze, probe, demo",
        ),
        (["--recipe", "demo", "--batch-size", "4000"], "fewer than one batch of 4000"),
        (["--recipe", "demo", "--model", "alexnet9"], "no classification model"),
        (["--recipe", "demo", "--weights", "nowhere.pth"], "there is no file of weights"),
        (["--recipe", "demo", "--epochs", "0"], "--epochs 0 should be at least 1"),
        (["--recipe", "stong"], "there is no recipe 'stong'; did you mean strong?"),
        (["--recipe", "demo", "--shards", "nowhere"], "there is no shards folder nowhere"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(
    tiny_path: Path, tmp_path: Path, command: Callable[..., tuple[int, str, str]], flags: list[str], message: str
) -> None:
    run = tmp_path / "run"
    code, _, err = command("train", "--shards", str(tiny_path), "--run", str(run), "--device", "cpu", *flags)
    assert code == 2
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not run.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device_is_one_sentence(
    tiny_path: Path, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    arguments = ("--shards", str(tiny_path), "--run", str(tmp_path / "run"), "--device", "cuda")
    code, _, err = command("train", *arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert "--device cuda: torch finds no CUDA device" in err
    assert not (tmp_path / "run").exists()


def test_a_folder_with_a_run_is_not_overwritten(
    finished: tuple[Path, list[EpochRow]], tiny_shards: ShardSet, tmp_path: Path
) -> None:
    before = (finished[0] / "recipe.json").read_bytes()
    with pytest.raises(UserError, match="already has a run; continue it with --resume"):
        train(tiny_shards, finished[0], TINY, device="cpu")
    assert (finished[0] / "recipe.json").read_bytes() == before
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        train(tiny_shards, tmp_path, TINY, device="cpu")


def test_a_run_that_ended_in_its_first_epoch_is_started_again(
    finished: tuple[Path, list[EpochRow]], tiny_shards: ShardSet, tmp_path: Path
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny_shards, tmp_path / "run", TINY, device="cpu", hooks=Hooks(validate=interrupted))
    again = Path(shutil.copytree(tmp_path / "run", tmp_path / "again"))
    for run, resume in ((tmp_path / "run", False), (again, True)):
        assert without_times(train(tiny_shards, run, TINY, device="cpu", resume=resume).metrics) == without_times(
            finished[1]
        )


def test_a_run_goes_on_only_with_its_own_recipe(finished: tuple[Path, list[EpochRow]], tiny_shards: ShardSet) -> None:
    with pytest.raises(UserError, match=r"can't be resumed with --batch-size 16 \(it was trained with 8\)"):
        train(tiny_shards, finished[0], changed(TINY, batch_size=16), device="cpu", resume=True)


def test_flags_change_the_recipe_that_is_named(
    tiny_path: Path, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    arguments = ["--shards", str(tiny_path), "--run", str(tmp_path / "run"), "--device", "cpu"]
    flags = ["--recipe", "demo", "--image-size", "32", "--epochs", "1", "--batch-size", "16"]
    code, out, _ = command("train", *arguments, *flags)
    assert code == 0
    assert "validation top-1" in out
    assert read_run(tmp_path / "run").recipe == changed(RECIPES["demo"], image_size=32, epochs=1, batch_size=16)
    code, _, err = command("train", *arguments, "--resume", "--recipe", "strong")
    assert (code, err.count("\n")) == (2, 1)
    assert "can't be resumed with --model resnet50 (it was trained with resnet18), --weights DEFAULT (it was" in err
    code, out, _ = command("train", *arguments, "--resume", "--epochs", "2")
    assert code == 0
    assert len((tmp_path / "run" / "metrics.jsonl").read_bytes().splitlines()) == 2
    assert orjson.loads((tmp_path / "run" / "recipe.json").read_bytes())["recipe"]["epochs"] == 2


def test_a_failed_save_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Linear(2, 2).state_dict()
    save_checkpoint(tmp_path, "last", model, {"epoch": 1})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(
        UserError,
        match=r"could not be written \(No space left.*; free space there, then .*the one before it is complete",
    ):
        save_checkpoint(tmp_path, "last", model, {"epoch": 2})
    assert load_checkpoint(tmp_path, "last")[1] == {"epoch": 1}


def test_a_disk_that_is_full_in_the_middle_of_the_state_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch makes an error of its own of it, over several lines."""
    save = torch.save

    class Full(io.BytesIO):
        def write(self, content: Any) -> int:
            if self.tell() > 1000:
                raise OSError(28, "No space left on device")
            return super().write(content)

    monkeypatch.setattr(torch, "save", lambda state, _: save(state, Full()))
    with pytest.raises(UserError) as error:
        save_checkpoint(tmp_path, "last", {}, {"numbers": torch.zeros(10_000)})
    assert str(error.value) == (
        f"{tmp_path / 'checkpoints' / 'last'} could not be written (No space left on device); free space there, then "
        "train on with --resume; there is none before it"
    )
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_damaged_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    """Also where the libraries would notice nothing, in the middle of the weights."""
    for name in ("model.safetensors", "state.pt"):
        save_checkpoint(tmp_path, "last", torch.nn.Linear(2, 2).state_dict(), {"epoch": 1})
        path = tmp_path / "checkpoints" / "last" / name
        flip(path, path.stat().st_size // 2)
        with pytest.raises(UserError, match=f"{name} is damaged: its bytes are not those that were written"):
            load_checkpoint(tmp_path, "last")
        path.unlink()
        with pytest.raises(UserError, match=rf"{name} cannot be read \(FileNotFoundError\); replace its folder"):
            load_checkpoint(tmp_path, "last")


def test_a_missing_checkpoint_says_which_there_are(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "best", torch.nn.Linear(2, 2).state_dict(), {"epoch": 1})
    with pytest.raises(UserError, match="has no checkpoint 'last', only best; copy one of these to checkpoints/last"):
        load_checkpoint(tmp_path, "last")
    with pytest.raises(UserError, match="is not empty"):
        new_run(tmp_path, TINY, None, torch.device("cpu"), 1)  # type: ignore[arg-type]


def test_a_second_process_may_not_train_into_the_same_folder(tiny_shards: ShardSet, tmp_path: Path) -> None:
    train(tiny_shards, tmp_path / "run", changed(TINY, epochs=1), device="cpu")
    with locked_run(tmp_path / "run"), pytest.raises(UserError, match="another process"):
        train(tiny_shards, tmp_path / "run", TINY, device="cpu", resume=True)
    train(tiny_shards, tmp_path / "run", TINY, device="cpu", resume=True)


@pytest.mark.parametrize(("model", "size"), [("alexnet", 32), ("vit_b_16", 64), ("inception_v3", 32)])
def test_a_size_that_a_model_can_not_take_is_one_sentence(
    model: str, size: int, tiny_shards: ShardSet, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"{model} can't take images of {size} pixels") as error:
        train(tiny_shards, tmp_path / "run", changed(TINY, model=model, image_size=size), device="cpu")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_state_of_another_version_or_without_a_key_is_one_sentence(tiny_shards: ShardSet, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny_shards, run, changed(TINY, epochs=1), device="cpu")
    trained, state = load_checkpoint(run, "last")
    save_checkpoint(run, "last", trained, state | {"version": 99})
    with pytest.raises(UserError, match="has version 99, and this program resumes version 1"):
        train(tiny_shards, run, TINY, device="cpu", resume=True)
    for key in ("progress", "step", "loader", "meter"):
        save_checkpoint(run, "last", trained, {name: value for name, value in state.items() if name != key})
        with pytest.raises(UserError, match=f"the last checkpoint of .* is damaged .*{key}"):
            train(tiny_shards, run, TINY, device="cpu", resume=True)
