"""Training on a CUDA device: a step never waits for it, compiles as often as planned, and names what fits."""

from __future__ import annotations

import dataclasses
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from food101_fast.compute.distributed import World
from food101_fast.errors import UserError
from food101_fast.evaluate import evaluate
from food101_fast.loader import Batch, ShardLoader
from food101_fast.models import build_model
from food101_fast.predict import Classifier
from food101_fast.runs.recipe import Amp, CompileMode
from food101_fast.runs.results import read_metrics
from food101_fast.shards import ShardSet
from food101_fast.train import Hooks, Recipe, RunOptions, train
from food101_fast.train.context import TrainContext
from food101_fast.train.memory import capacity_of, fit_batch, release, trial_steps
from food101_fast.train.meter import EpochMeter, TrainResults
from food101_fast.train.step import TrainStep
from food101_fast.train.validate import validate
from food101_fast.transforms import eval_preset
from tests.conftest import encoded, picture
from tests.cuda_device import DEVICES, chosen, harmless_warnings, needs_cuda, no_waiting
from tests.train.launch import Job, plain_model, start

pytestmark = harmless_warnings

# Step by step; test_cuda_graph.py has graphs.
TINY = Recipe(
    model="shufflenet_v2_x0_5", weights="none", image_size=32, epochs=2, batch_size=8, learning_rate=1e-3,
    cuda_graph="off",
)  # fmt: skip


@pytest.fixture
def compiler() -> Iterator[None]:
    """No graph of another test is counted or reused."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def small_model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 3),
    )  # fmt: skip


def zeros(device: torch.device, samples: int = 8) -> Batch:
    images = torch.zeros(samples, 32, 32, 3, dtype=torch.uint8, device=device).permute(0, 3, 1, 2)
    numbers = torch.arange(samples, device=device)
    return Batch(images, numbers % 3, numbers)


def noise(device: torch.device, samples: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(samples)
    images = torch.randint(0, 256, (samples, 32, 32, 3), dtype=torch.uint8, generator=generator)
    numbers = torch.arange(samples, device=device)
    return Batch(images.to(device).permute(0, 3, 1, 2), numbers % 3, numbers)


def made_step(recipe: Recipe, device: torch.device, world: World | None = None) -> TrainStep:
    """The same one each time, and with a scale that does not have to be found first."""
    torch.manual_seed(0)
    step = TrainStep(recipe, small_model(), device, 3, world)
    step.precision.scaler = torch.amp.GradScaler(device.type, init_scale=256.0 if step.precision.scales else 1.0)
    return step


def losses(step: TrainStep, batch: Batch, steps: int = 4) -> list[float]:
    step.train_mode()
    seen = []
    for number in range(steps):
        step.prepare(number, 1.0)
        seen.append(step(batch, 0)[0])
    return [loss.item() for loss in seen]


STEPS = [
    pytest.param("cpu", "off", "off", "sgd"),
    *(
        pytest.param("cuda", "off", amp, optimizer, marks=needs_cuda)
        for amp in ("fp16", "bf16", "off")
        for optimizer in ("adam", "adamw", "sgd")
    ),
    # Compiling takes so long that each is tried once.
    pytest.param("cuda", "on", "fp16", "adam", marks=needs_cuda),
    pytest.param("cuda", "on", "bf16", "adamw", marks=needs_cuda),
    pytest.param("cuda", "on", "off", "sgd", marks=needs_cuda),
]


@pytest.mark.parametrize(("device", "compiled", "amp", "optimizer"), STEPS)
def test_a_step_never_waits_for_the_device(
    device: str, compiled: Any, amp: Any, optimizer: Any, compiler: None
) -> None:
    where = chosen(device)
    preset = "trivial" if compiled == "off" else "baseline"
    recipe = dataclasses.replace(
        TINY, amp=amp, optimizer=optimizer, compile=compiled, ema_decay=0.9, clip_norm=1.0, preset=preset
    )
    step = TrainStep(recipe, build_model(recipe.model, "none", 3), where, 3)
    step.train_mode()
    batch = zeros(where)
    for number in range(3):
        step.prepare(number, 1.0)
        step(batch, 0)
    with no_waiting(where):
        step.prepare(3, 0.5)
        loss, correct = step(batch, 1)
    assert torch.isfinite(loss)
    assert 0 <= correct <= 8


@pytest.mark.parametrize(
    ("device", "amp"),
    [("cpu", "off"), *(pytest.param("cuda", amp, marks=needs_cuda) for amp in ("fp16", "bf16", "off"))],
)
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_a_device_trains_as_the_cpu_does(amp: Any, optimizer: Any, device: str) -> None:
    where, cpu = chosen(device), torch.device("cpu")
    recipe = dataclasses.replace(
        TINY, optimizer=optimizer, compile="off", ema_decay=0.9, clip_norm=1.0, accumulate=2,
        learning_rate=0.3 if optimizer == "sgd" else 1e-2,
    )  # fmt: skip
    found = []
    precisions: list[tuple[torch.device, Amp]] = [(cpu, "off"), (where, amp)]
    for on, precision in precisions:
        step = made_step(dataclasses.replace(recipe, amp=precision), on)
        seen = losses(step, noise(on), 8)
        assert step.skipped == 0
        found.append(seen)
    assert found[1] == pytest.approx(found[0], abs=3e-3)
    assert found[0][-1] < found[0][0] - 0.01  # far more than they may differ by


@needs_cuda
@pytest.mark.parametrize(
    ("mode", "amp"),
    [
        ("default", "fp16"),
        ("default", "off"),
        ("reduce-overhead", "fp16"),
        ("reduce-overhead", "off"),
        ("max-autotune-no-cudagraphs", "fp16"),
    ],
)
def test_a_compiled_step_and_validation_are_the_eager_ones(
    mode: CompileMode, amp: Amp, tiny_shards: ShardSet, compiler: None
) -> None:
    """Validation between steps, as after an epoch, and steps after it."""
    where = chosen("cuda")
    found: list[list[float]] = []
    for compiled in ("off", "on"):
        recipe: Any = dataclasses.replace(
            TINY, amp=amp, compile=compiled, compile_mode=mode, ema_decay=0.9, learning_rate=1e-2
        )
        step = made_step(recipe, where)
        model, loader = step.compile(step.evaluated), val_loader(tiny_shards, where)
        seen = losses(step, noise(where))
        for _ in range(2):
            step.model.eval()
            result = validate(model, loader, eval_preset(32, 32), step.precision)
            assert result is not None
            seen.append(result.loss)
            seen += losses(step, noise(where))
        found.append(seen)
    assert found[1] == pytest.approx(found[0], abs=0.01)


def val_loader(shards: ShardSet, device: torch.device) -> ShardLoader:
    return ShardLoader(shards, split="val", batch_size=4, device=device, shuffle=False, drop_last=False)


@pytest.mark.parametrize("device", DEVICES)
def test_validation_waits_when_it_has_ended(device: str, tiny_shards: ShardSet) -> None:
    where = chosen(device)
    step = TrainStep(dataclasses.replace(TINY, compile="off"), small_model(), where, 3)
    loader, preset = val_loader(tiny_shards, where), eval_preset(32, 32).to(where)
    step.model.eval()
    validate(step.model, loader, preset, step.precision)  # cuDNN measures what is fastest

    class EndedError(Exception):
        """Raised by the sum over the ranks, which is what is waited for."""

    class OneRank(World):
        def total(self, tensor: torch.Tensor) -> torch.Tensor:
            assert tensor.device.type == device
            raise EndedError

    with no_waiting(where), pytest.raises(EndedError):
        validate(step.model, loader, preset, step.precision, world=OneRank())


@needs_cuda
def test_a_resumed_run_goes_on_with_the_same_samples(tiny_shards: ShardSet, tmp_path: Path) -> None:
    recipe, hooks = dataclasses.replace(TINY, compile="off"), Hooks(build_model=plain_model)
    whole = train(tiny_shards, tmp_path / "whole", recipe, device="cuda", hooks=hooks).metrics
    train(tiny_shards, tmp_path / "run", dataclasses.replace(recipe, epochs=1), device="cuda", hooks=hooks)
    resumed = train(tiny_shards, tmp_path / "run", recipe, device="cuda", resume=True, hooks=hooks).metrics
    assert [row.step for row in resumed] == [row.step for row in whole]
    # CUDA kernels may add up in another order each time.
    assert resumed[1].train_loss == pytest.approx(whole[1].train_loss, rel=0.01)


@needs_cuda
@pytest.mark.parametrize("graph", ["off", "auto"])
def test_a_killed_run_goes_on_with_the_same_samples(graph: Any, tiny_path: Path, tmp_path: Path) -> None:
    """In the middle of its second epoch of 7 steps, after a checkpoint at step 10."""
    recipe = dataclasses.replace(TINY, compile="off", cuda_graph=graph)
    job = Job(
        shards=tiny_path, run=tmp_path / "run", recipe=recipe, device="cuda", options=RunOptions(checkpoint_steps=5),
        kill_before_step=12, plain=True,
    )  # fmt: skip
    assert start(job) == [-signal.SIGKILL]
    assert start(dataclasses.replace(job, kill_before_step=None, resume=True)) == [0]
    hooks = Hooks(build_model=plain_model)
    whole = train(ShardSet.open(tiny_path), tmp_path / "whole", recipe, device="cuda", hooks=hooks).metrics
    rows = read_metrics(tmp_path / "run")
    assert [row.step for row in rows] == [row.step for row in whole] == [7, 14]
    assert rows[1].train_loss == pytest.approx(whole[1].train_loss, rel=0.01)


@needs_cuda
@pytest.mark.parametrize("graph", ["off", "auto"])
def test_auto_measures_steps_before_it_compiles(
    graph: Any, tiny_shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """With compilations that take no time, and with those that take a year."""
    recipe = dataclasses.replace(TINY, epochs=8, compile="auto", patience=None, cuda_graph=graph)
    for seconds, expected in ((0.0, "on"), (3e7, "off")):
        monkeypatch.setattr("food101_fast.train.compiling._COMPILE_SECONDS", seconds)
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / f"compiled {expected}"))
        timings = [row.timing for row in train(tiny_shards, tmp_path / expected, recipe, device="cuda").metrics]
        assert f"compile: {expected}, " in "".join(capfd.readouterr())
        # Without a graph the augmentation at once. 40 steps of 7 in an epoch: the model in the sixth, as then chosen.
        compiled = [timing.compile_seconds > 0 for timing in timings]
        assert compiled == [graph == "off", *[False] * 4, expected == "on", False, False]


@needs_cuda
def test_compilation_is_timed_apart(tiny_shards: ShardSet, tmp_path: Path, compiler: None) -> None:
    recipe = dataclasses.replace(TINY, compile="on")
    rows = train(tiny_shards, tmp_path / "run", recipe, device="cuda").metrics
    assert rows[0].timing.compile_seconds > 0
    assert rows[1].timing.compile_seconds == 0


@needs_cuda
def test_memory_that_is_too_small_is_measured(tiny_shards: ShardSet, tmp_path: Path) -> None:
    device = chosen("cuda")
    release()  # what other tests have left
    try:
        free, total = torch.cuda.mem_get_info(device)
        assert free > 600e6
        limit = torch.cuda.memory_reserved(device) + 600e6  # graphs of other tests may hold memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), device)
        recipe = dataclasses.replace(TINY, model="resnet18", image_size=224, batch_size=56, compile="off")
        context = TrainContext(recipe=recipe, device=device, world=World(), classes=3, stored_size=32)
        fits = fit_batch(context, samples=1024, trial=trial_steps(context), capacity=capacity_of(device))
        assert 2 <= fits < 1024
        larger = dataclasses.replace(recipe, image_size=1024, cuda_graph="auto")
        with pytest.raises(UserError, match="out of device memory with --batch-size 56"):
            train(tiny_shards, tmp_path / "run", larger, device="cuda")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
        torch.cuda.empty_cache()


@pytest.mark.parametrize("device", DEVICES)
def test_sums_stay_on_the_device(device: str, tiny_shards: ShardSet) -> None:
    where = chosen(device)
    loader = ShardLoader(tiny_shards, split="train", batch_size=8, device=where)
    meter = EpochMeter(loader, World())
    loss, correct = torch.tensor(1.5, device=where).double(), torch.tensor(3.0, device=where).double()
    with no_waiting(where):
        meter.add(loss, correct, 8)
    assert meter.results() == TrainResults(loss=1.5, top1=3 / 8)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("tta", ["none", "flip"])
def test_evaluation_finds_what_it_finds_on_the_cpu(
    tta: Any, device: Any, tiny_run: Path, tiny_path: Path, tmp_path: Path
) -> None:
    """As far as fp16 goes, in which a run is computed on CUDA."""
    chosen(device)
    found = []
    for on in ("cpu", device):
        folder = Path(shutil.copytree(tiny_run, tmp_path / on, dirs_exist_ok=True))
        evaluate(folder, shards=tiny_path, device=on, batch_size=4, tta=tta)
        with np.load(folder / "predictions.npz") as arrays:
            found.append({name: arrays[name] for name in arrays.files})
    for name in ("ids", "labels"):
        assert np.array_equal(found[0][name], found[1][name])
    assert found[1]["logits"].dtype == np.float32
    np.testing.assert_allclose(found[1]["logits"], found[0]["logits"], atol=0.05)


@pytest.mark.parametrize("device", DEVICES)
def test_predictions_are_those_of_the_cpu(device: Any, tiny_run: Path) -> None:
    chosen(device)
    files = [encoded(picture(seed, 60, 50)) for seed in range(5)]
    expected = Classifier.load(tiny_run, device="cpu")(files)
    got = Classifier.load(tiny_run, device=device)(files)
    assert got.device.type == "cpu"
    torch.testing.assert_close(got, expected, rtol=0, atol=0.02)


@pytest.fixture(params=DEVICES)
def group(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[torch.device]:
    """A group of one rank, over NCCL on CUDA, as `joined_world` makes it; gives its device."""
    where = chosen(request.param)
    backend = "cpu:gloo,cuda:nccl" if where.type == "cuda" else "gloo"
    device_id = where if where.type == "cuda" else None
    store = f"file://{tmp_path / 'store'}"
    dist.init_process_group(backend, init_method=store, rank=0, world_size=1, device_id=device_id)
    yield where
    dist.destroy_process_group()


# It has one rank and is told that there are two, so that it does all that several ranks do.
PAIR = World(rank=0, size=2)


def test_a_rank_talks_to_others_on_the_device(group: torch.device) -> None:
    numbers = torch.arange(3, device=group)
    assert PAIR.total(numbers).equal(numbers)
    PAIR.share([numbers, torch.ones(2, 2, device=group)])
    assert PAIR.any(True, False) == [True, False]  # on the CPU, by gloo
    assert PAIR.least(7) == 7
    PAIR.wait()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_gradients_go_through_the_group(accumulate: int, group: torch.device) -> None:
    recipe = dataclasses.replace(TINY, compile="off", accumulate=accumulate, ema_decay=0.9, clip_norm=1.0)
    alone, together = (losses(made_step(recipe, group, world), noise(group)) for world in (World(), PAIR))
    assert together == pytest.approx(alone, rel=1e-3)


@needs_cuda
def test_torchrun_trains_on_its_own_device(tiny_path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    flags = ["--recipe", "demo", "--image-size", "32", "--epochs", "1", "--batch-size", "8", "--compile", "off"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "-m"]
    command = [*launch, "food101_fast.train", "--", "--shards", str(tiny_path), "--run", str(folder)]
    done = subprocess.run([*command, "--device", "cuda", *flags], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert " on cuda:0" in done.stdout + done.stderr
    assert read_metrics(folder)[0].epoch == 1
