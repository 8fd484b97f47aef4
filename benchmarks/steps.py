"""A training step of ours against the bare lines, timm's and torchvision's reference, on one fixed batch.

    python benchmarks/steps.py [--device cuda] [--models mobilenet_v2:160 ...] [--batch-sizes 256 ...] [--json FILE]

All have the same model, optimizer (Adam, as fast as each has it), precision and memory format; images and labels lie on
the device and are already augmented, so that nothing but the step is compared. The contenders take turns in each
repetition, and a ratio is the median of those of the repetitions. What timm and torchvision do in a step is written
down here from their training scripts: the forward pass under autocast, their scaler, and on torchvision's side the
accuracy and loss that it reads in each step. "bare" is the least that trains: forward, backward, step.

`--modes` are ways to run ours: eager, compiled, reduce-overhead (compiled, with torch's own CUDA graphs), cuda-graph
(the whole step as one graph, not compiled) and compiled-graph (the same, compiled). The others are eager, and compiled
where `--others` says so. "whole step" starts from stored uint8 images and includes the augmentation `baseline`; nobody
else augments on the device.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from published import Measurement
from rows import Rows
from torch import Tensor, nn
from torch.nn import functional

from food101_fast.bench.measure import measure, median_of_ratios
from food101_fast.cli import exit_with, parse
from food101_fast.compute.precision import Precision
from food101_fast.errors import UserError
from food101_fast.loader import Batch
from food101_fast.models import build_model
from food101_fast.train import Recipe
from food101_fast.train.step import TrainStep

Step = Callable[[Tensor, Tensor], object]
"""Trains on normalized images and their labels, which lie on the device."""

MODES: dict[str, dict[str, Any]] = {
    "eager": {"compile": "off", "cuda_graph": "off"},
    "compiled": {"compile": "on", "cuda_graph": "off"},
    "reduce-overhead": {"compile": "on", "compile_mode": "reduce-overhead", "cuda_graph": "off"},
    "cuda-graph": {"compile": "off", "cuda_graph": "on"},
    "compiled-graph": {"compile": "on", "cuda_graph": "on"},
}
"""By name, what the recipe says."""

STORED = 192
"""Height and width of the stored images that a whole step starts from, in pixels."""


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
    modes: tuple[str, ...] = ("eager",)
    """How ours runs: eager, compiled, reduce-overhead, cuda-graph, compiled-graph; one after the other, with all batch
    sizes each."""
    others: tuple[str, ...] = ("eager",)
    """Modes in which the others are measured, too: eager, compiled."""
    whole: bool = False
    """Measure whole steps from stored images, too."""
    steps: int = 1
    """Steps in one repetition."""
    repetitions: int = 9
    """Repetitions, after one that is not counted."""
    classes: int = 101
    """Outputs of the model."""
    json: Path | None = None
    """File to write the results to."""
    rows: Path | None = None
    """File to append each row to as it is measured."""
    part: str = "steps"
    """What the rows are marked with."""


def ours(model: nn.Module, recipe: Recipe, device: torch.device) -> Step:
    """What `train` does in each step, without data and augmentation."""
    step = TrainStep(recipe, model, device)
    step.train_mode()
    numbers = iter(range(1 << 40))

    def run(images: Tensor, labels: Tensor) -> object:
        step.prepare(next(numbers), 1.0)
        return step.update(images, labels)

    return run


def whole(model: nn.Module, recipe: Recipe, device: torch.device, classes: int) -> Callable[[], object]:
    """What `train` does in each step with a batch of its loader: the augmentation first."""
    step = TrainStep(recipe, model, device, classes)
    step.train_mode()
    rows = torch.randint(256, (recipe.batch_size, STORED, STORED, 3), dtype=torch.uint8, device=device)
    ids = torch.arange(recipe.batch_size, device=device)
    batch = Batch(rows.permute(0, 3, 1, 2), ids % classes, ids)
    numbers = iter(range(1 << 40))

    def run() -> object:
        step.prepare(next(numbers), 1.0)
        return step(batch, 0)

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
    """Optimizer factory, loss and scaler of timm, called as its train.py calls them."""
    from timm.optim import create_optimizer_v2
    from timm.utils import NativeScaler

    optimizer = create_optimizer_v2(model, opt="adam", lr=recipe.learning_rate, weight_decay=0.0)
    precision = Precision(recipe.amp, device)
    scaler = NativeScaler(device=device.type) if precision.scales else None  # type: ignore[no-untyped-call]
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


Works = dict[str, Callable[[], Callable[[], object]]]
"""By name what makes the function that does one step."""


def contenders(mode: str, base: Recipe, first: nn.Module, settings: Settings, device: torch.device) -> Works:
    """All that take turns in a mode. Apart from ours in it, ours in eager mode is among them, for the ratio."""
    batch, size = base.batch_size, base.image_size
    images = torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, settings.classes, (batch,), device=device)

    def own() -> nn.Module:
        return copy.deepcopy(first).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def fixed(make: Callable[[nn.Module, Recipe, torch.device], Step], way: str) -> Callable[[], Callable[[], object]]:
        def made() -> Callable[[], object]:
            step = make(own(), replace(base, **MODES[way]), device)
            return lambda: step(images, labels)

        return made

    def stored(way: str) -> Callable[[], Callable[[], object]]:
        return lambda: whole(own(), replace(base, **MODES[way]), device, settings.classes)

    made: Works = {}
    if not mode.endswith("-graph"):  # which is a graph of the whole step
        made["food101_fast"] = fixed(ours, mode)
    if mode in settings.others:
        made |= {name: fixed(make, mode) for name, make in CONTENDERS.items() if make is not ours}
    if settings.whole:
        made["whole step"] = stored(mode)
    if mode != "eager":
        made["eager"] = fixed(ours, "eager")
        if settings.whole:
            made["whole step, eager"] = stored("eager")
    return made


def compare(
    model: str, size: int, batch: int, amp: str, mode: str, settings: Settings, device: torch.device
) -> dict[str, Any]:
    """All contenders on one setting; one that can't run is listed with the reason."""
    base = Recipe(model=model, weights="none", image_size=size, batch_size=batch, amp=amp)  # type: ignore[arg-type]
    torch.manual_seed(0)
    first = build_model(model, "none", settings.classes).train()
    steps: dict[str, Callable[[], object]] = {}
    reasons: dict[str, str] = {}
    for name, make in contenders(mode, base, first, settings, device).items():
        try:
            step = make()
            for _ in range(3):
                step()
            steps[name] = step
        except (ImportError, RuntimeError, TypeError, UserError) as error:
            reasons[name] = f"{type(error).__name__}: {error}".splitlines()[0]

    def work(step: Callable[[], object]) -> Callable[[], float]:
        def run() -> float:
            for _ in range(settings.steps):
                step()
            return batch * settings.steps

        return run

    works = {name: work(step) for name, step in steps.items()}
    rates = measure(works, seconds=0, repetitions=settings.repetitions, device=device)
    return {
        "model": model,
        "image_size": size,
        "batch_size": batch,
        "amp": amp,
        "mode": mode,
        "images_per_second": {name: statistics.median(values) for name, values in rates.items()},
        "ours_over": _ratios("food101_fast", rates),
        "whole_over": _ratios("whole step", rates),
        "repetitions": rates,
        "not_run": reasons,
    }


def _ratios(ours: str, rates: dict[str, list[float]]) -> dict[str, float]:
    """Ours over each that does the same: from an augmented batch, or from stored images."""
    kind = ours.startswith("whole")
    return {
        name: median_of_ratios(rates[ours], values)
        for name, values in rates.items()
        if ours in rates and name != ours and name.startswith("whole") == kind
    }


def keep(result: dict[str, Any], title: str, rows: Rows) -> None:
    """Append a row for each contender."""
    for name, values in result["repetitions"].items():
        over = {"food101_fast": "ours_over", "whole step": "whole_over"}.get(name)
        rows.rates(f"{title}: {name}", values, over=result[over] if over else {})
    for name, reason in result["not_run"].items():
        rows.missing(f"{title}: {name}", reason)


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    settings = parse(Settings, "benchmarks/steps", argv)
    for flag, given, known in (
        ("--modes", settings.modes, MODES),
        ("--others", settings.others, ("eager", "compiled")),
    ):
        if unknown := set(given) - set(known):
            raise UserError(f"{flag} {' '.join(sorted(unknown))}: choose from {', '.join(known)}")
    measurement = Measurement(
        settings.json, settings.device, rows=settings.rows, part=settings.part, settings=vars(settings)
    )
    results = []
    for name in settings.models:
        model, _, size = name.partition(":")
        for amp in settings.amps:
            for mode in settings.modes:
                for batch in settings.batch_sizes:
                    torch.compiler.reset()
                    result = compare(model, int(size), batch, amp, mode, settings, measurement.device)
                    results.append(result)
                    title = f"{model} {size} px, batch {batch}, {amp}, {mode}"
                    keep(result, title, measurement.rows)
                    cells = (f"{rate:,.1f} {name}" for name, rate in result["images_per_second"].items())
                    ratios = (f"{ratio:.3f} {name}" for name, ratio in result["ours_over"].items())
                    reasons = (f"{name}: {reason}" for name, reason in result["not_run"].items())
                    words = filter(None, (", ".join(cells), "ours over: " + ", ".join(ratios), "; ".join(reasons)))
                    print(f"{title}: " + "; ".join(words), flush=True)
    kept = {name: getattr(settings, name) for name in ("steps", "repetitions", "classes")}
    measurement.publish(kept, results=results)


if __name__ == "__main__":
    exit_with(main)
