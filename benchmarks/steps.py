"""A training step of ours against the bare lines, timm's and torchvision's reference, on one fixed batch.

    python benchmarks/steps.py [--device cuda] [--models mobilenet_v2:160 ...] [--batch-sizes 256 ...] [--json FILE]

All have the same model, optimiser (Adam, as fast as each has it), precision and memory format; images and labels lie on
the device and are already augmented, so that nothing but the step is compared. The contenders take turns in each
repetition, and a ratio is the median of those of the repetitions. What timm and torchvision do in a step is written
down here from their training scripts: the forward pass under autocast, their scaler, and on torchvision's side the
accuracy and loss that it reads in each step. "bare" is the least that trains: forward, backward, step.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from published import Measurement
from torch import Tensor, nn
from torch.nn import functional

from food101_fast.bench.measure import measure, median_of_ratios
from food101_fast.cli import exit_with, parse
from food101_fast.train import Recipe
from food101_fast.train.model import build_model
from food101_fast.train.precision import Precision
from food101_fast.train.step import TrainStep

Step = Callable[[Tensor, Tensor], object]
"""Trains on normalised images and their labels, which lie on the device."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A training step of ours against others, on one fixed batch."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Where to compute."""
    models: tuple[str, ...] = ("mobilenet_v2:160",)
    """Models, each with the size of its images in pixels."""
    batch_sizes: tuple[int, ...] = (64,)
    """Images per step."""
    amps: tuple[str, ...] = ("off",)
    """Precisions: off, fp16, bf16."""
    compiles: tuple[str, ...] = ("off",)
    """Whether models are compiled: off, on; all contenders alike."""
    steps: int = 1
    """Steps in one repetition."""
    repetitions: int = 9
    """Repetitions, after one that is not counted."""
    classes: int = 101
    """Outputs of the model."""
    json: Path | None = None
    """File to write the results to."""


def ours(model: nn.Module, recipe: Recipe, device: torch.device) -> Step:
    """What `train` does in each step, without data and augmentation."""
    step = TrainStep(recipe, model, device)
    step.train_mode()
    numbers = iter(range(1 << 40))

    def run(images: Tensor, labels: Tensor) -> object:
        step.prepare(next(numbers), 1.0)
        return step.update(images, labels)

    return run


def descend(loss: Tensor, optimizer: torch.optim.Optimizer, precision: Precision) -> None:
    """Backward and step, as torch's examples of mixed precision have them."""
    if precision.scales:
        precision.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        precision.scaler.step(optimizer)
        precision.scaler.update()
    else:
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def bare(model: nn.Module, recipe: Recipe, device: torch.device) -> Step:
    """Forward, backward, step; for fp16 with torch's scaler. Gradients are freed where that is fastest, as in ours."""
    optimizer = torch.optim.Adam(model.parameters(), recipe.learning_rate, fused=True)
    precision = Precision(recipe.amp, device)
    forward = torch.compile(model, dynamic=False) if recipe.compile == "on" else model

    def run(images: Tensor, labels: Tensor) -> object:
        with precision.autocast():
            loss = functional.cross_entropy(forward(images), labels)
        optimizer.zero_grad(set_to_none=True)
        descend(loss, optimizer, precision)
        return loss

    return run


def timms(model: nn.Module, recipe: Recipe, device: torch.device) -> Step:
    """timm's own optimiser factory, loss and scaler, called as its train.py calls them."""
    from timm.optim import create_optimizer_v2
    from timm.utils import NativeScaler

    optimizer = create_optimizer_v2(model, opt="adam", lr=recipe.learning_rate, weight_decay=0.0)
    precision = Precision(recipe.amp, device)
    scaler = NativeScaler(device=device.type) if precision.scales else None
    forward = torch.compile(model) if recipe.compile == "on" else model
    loss_of = nn.CrossEntropyLoss().to(device)

    def run(images: Tensor, labels: Tensor) -> object:
        with precision.autocast():
            loss = loss_of(forward(images), labels)
        if scaler is not None:
            scaler(loss, optimizer, clip_grad=None, parameters=model.parameters(), create_graph=False, need_update=True)
        else:
            loss.backward()
            optimizer.step()
        optimizer.zero_grad()
        return loss

    return run


def torchvisions(model: nn.Module, recipe: Recipe, device: torch.device) -> Step:
    """The loop of torchvision's references/classification, which reads loss and accuracies in each step."""
    optimizer = torch.optim.Adam(model.parameters(), recipe.learning_rate)
    precision = Precision(recipe.amp, device)
    criterion = nn.CrossEntropyLoss()
    forward = torch.compile(model) if recipe.compile == "on" else model

    def run(images: Tensor, labels: Tensor) -> object:
        with precision.autocast():
            output = forward(images)
            loss = criterion(output, labels)
        optimizer.zero_grad()
        descend(loss, optimizer, precision)
        with torch.inference_mode():
            hits = output.topk(5, 1).indices == labels[:, None]
            return loss.item(), hits[:, :1].float().sum().item(), hits.float().sum().item()

    return run


CONTENDERS: dict[str, Callable[[nn.Module, Recipe, torch.device], Step]] = {
    "food101_fast": ours,
    "bare": bare,
    "timm": timms,
    "torchvision": torchvisions,
}


def compare(
    model: str, size: int, batch: int, amp: str, compiled: str, settings: Settings, device: torch.device
) -> dict[str, Any]:
    """All contenders on one setting; one that can't run is listed with the reason."""
    recipe = Recipe(model=model, weights="none", image_size=size, batch_size=batch, amp=amp, compile=compiled)  # type: ignore[arg-type]
    torch.manual_seed(0)
    first = build_model(model, "none", settings.classes).train()
    images = torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, settings.classes, (batch,), device=device)
    steps: dict[str, Step] = {}
    reasons: dict[str, str] = {}
    for name, make in CONTENDERS.items():
        own = copy.deepcopy(first).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        try:
            steps[name] = make(own, recipe, device)
            for _ in range(3):
                steps[name](images, labels)
        except (ImportError, RuntimeError) as error:
            steps.pop(name, None)
            reasons[name] = f"{type(error).__name__}: {error}".splitlines()[0]

    def work(step: Step) -> Callable[[], float]:
        def run() -> float:
            for _ in range(settings.steps):
                step(images, labels)
            return batch * settings.steps

        return run

    works = {name: work(step) for name, step in steps.items()}
    rates = measure(works, seconds=0, repetitions=settings.repetitions, device=device)
    reference = rates.get("food101_fast", [])
    return {
        "model": model,
        "image_size": size,
        "batch_size": batch,
        "amp": amp,
        "compile": compiled,
        "images_per_second": {name: statistics.median(values) for name, values in rates.items()},
        "ours_over": {
            name: median_of_ratios(reference, values)
            for name, values in rates.items()
            if reference and name != "food101_fast"
        },
        "repetitions": rates,
        "not_run": reasons,
    }


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    settings = parse(Settings, "benchmarks/steps", argv)
    measurement = Measurement(settings.json, settings.device)
    results = []
    print(f"{'':<46}" + "".join(f"{name:>14}" for name in CONTENDERS) + "   ours / bare, timm, torchvision")
    for name in settings.models:
        model, _, size = name.partition(":")
        for batch in settings.batch_sizes:
            for amp in settings.amps:
                for compiled in settings.compiles:
                    torch.compiler.reset()
                    result = compare(model, int(size), batch, amp, compiled, settings, measurement.device)
                    results.append(result)
                    title = f"{model} {size} px, batch {batch}, {amp}, {'compiled' if compiled == 'on' else 'eager'}"
                    cells = (result["images_per_second"].get(name) for name in CONTENDERS)
                    ratios = ", ".join(f"{ratio:.3f}" for ratio in result["ours_over"].values())
                    print(
                        f"{title:<46}"
                        + "".join(f"{'-' if cell is None else format(cell, ',.1f'):>14}" for cell in cells)
                        + f"   {ratios}"
                    )
    kept = {name: getattr(settings, name) for name in ("steps", "repetitions", "classes")}
    measurement.publish(kept, results=results)


if __name__ == "__main__":
    exit_with(main)
