"""The learning curve of our trainer against a plain loop's at the same recipe, several seeds of each.

    python benchmarks/accuracy.py --shards DIR [--device cuda] [--json FILE] [--plot FILE] [--rows FILE]

The plain loop is what people write: a Dataset that gives PIL images, torchvision's transforms one by one in DataLoader
workers, a model, Adam, ExponentialLR, and validation with Resize and CenterCrop. Both train from scratch on the same
images, split and recipe; weights, order and augmentation are drawn in each one's own way. Whether they agree is judged
by Welch's t-test of the mean accuracies, seed against seed.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from published import Measurement
from scipy.stats import ttest_ind
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from food101_fast.cli import exit_with, parse
from food101_fast.compute.device import Device
from food101_fast.compute.precision import Precision
from food101_fast.models import build_model
from food101_fast.shards import ShardSet
from food101_fast.train import Recipe, train
from food101_fast.transforms.normalize import MEAN, STD


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Learning curves of our trainer and of a plain loop."""

    shards: Path
    """Folder of raw shards."""
    device: Device = "auto"
    """Where to compute."""
    model: str = "resnet18"
    """torchvision model, with random weights."""
    image_size: int = 64
    """Height and width that the model sees, in pixels."""
    batch_size: int = 32
    """Images in one step."""
    epochs: int = 12
    """Epochs of each run."""
    learning_rate: float = 1e-3
    """Of Adam in the first epoch."""
    lr_gamma: float = 0.9
    """Factor on it after each epoch."""
    seeds: int = 3
    """Runs of each, with the seeds 0, 1, ..."""
    workers: int = 2
    """Worker processes of the plain loop's DataLoader."""
    json: Path | None = None
    """File to write the results to."""
    rows: Path | None = None
    """File to append each run to as it ends."""
    part: str = "accuracy"
    """What the rows are marked with."""
    plot: Path | None = None
    """PNG of the curves."""


class Pictures(Dataset[tuple[Any, int]]):
    """A split as PIL images through a transform, one at a time."""

    def __init__(self, shards: ShardSet, split: str, transform: Any) -> None:
        self.split = shards.split(split)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        row = torch.empty(1, self.split.row_bytes, dtype=torch.uint8)
        (label,) = self.split.gather(np.array([number]), row)
        size = self.split.image_size
        return self.transform(Image.fromarray(row.numpy().reshape(size, size, 3))), int(label)


def plain(shards: ShardSet, recipe: Recipe, device: torch.device, workers: int) -> list[dict[str, float]]:
    """The loop that people write; a row with validation top-1 and training seconds for each epoch."""
    torch.manual_seed(recipe.seed)
    size = recipe.image_size
    ending = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    augment = v2.Compose([v2.RandomResizedCrop(size, scale=(0.35, 1.0)), v2.RandomHorizontalFlip(), *ending])
    resize = round(size / 0.875)
    resize = resize if resize <= shards.manifest.image_size else size
    look = v2.Compose([v2.Resize(resize), v2.CenterCrop(size), *ending])
    common = {"batch_size": recipe.batch_size, "num_workers": workers, "persistent_workers": workers > 0}
    training = DataLoader(Pictures(shards, "train", augment), shuffle=True, drop_last=True, **common)  # type: ignore[arg-type]
    validation = DataLoader(Pictures(shards, "val", look), **common)  # type: ignore[arg-type]
    model: nn.Module = build_model(recipe.model, "none", len(shards.classes))
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(model.parameters(), recipe.learning_rate)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, recipe.lr_gamma)
    precision = Precision(recipe.amp, device)
    rows = []
    for _ in range(recipe.epochs):
        begun = time.perf_counter()
        model.train()
        for images, labels in training:
            images = images.to(device, memory_format=torch.channels_last, non_blocking=True)
            with precision.autocast():
                loss = functional.cross_entropy(model(images), labels.to(device))
            optimizer.zero_grad()
            precision.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            precision.step(optimizer) if precision.scales else optimizer.step()
        scheduler.step()
        seconds = time.perf_counter() - begun
        model.eval()
        hits = 0
        with torch.inference_mode(), precision.autocast():
            for images, labels in validation:
                hits += int((model(images.to(device)).argmax(1).cpu() == labels).sum())
        rows.append({"val_top1": hits / len(shards.split("val")), "seconds": seconds})
    return rows


def ours(shards: ShardSet, recipe: Recipe, device: torch.device, workers: int) -> list[dict[str, float]]:
    """Our trainer, as the command runs it."""
    with tempfile.TemporaryDirectory() as folder:
        kind: Device = "cuda" if device.type == "cuda" else "cpu"
        metrics = train(shards, Path(folder) / "run", recipe, device=kind).metrics
    return [{"val_top1": row.val_top1, "seconds": row.timing.seconds} for row in metrics]


def curves(rows: list[list[dict[str, float]]]) -> np.ndarray:
    """Validation top-1: (seeds, epochs)."""
    return np.array([[row["val_top1"] for row in run] for run in rows])


def agreement(a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
    """Whether two sets of curves end alike: their means over the last quarter of the epochs, seed by seed."""
    last = max(a.shape[1] // 4, 1)
    ends = [curve[:, -last:].mean(axis=1) for curve in (a, b)]
    error = float(np.sqrt(sum(end.var(ddof=1) / end.size for end in ends)))
    difference = float(ends[0].mean() - ends[1].mean())
    return {
        "last_epochs": last,
        "ours": ends[0].tolist(),
        "plain": ends[1].tolist(),
        "difference": difference,
        "standard_error": error,
        "p_value": float(ttest_ind(*ends, equal_var=False).pvalue),
    }


def plot(results: dict[str, np.ndarray], title: str, path: Path) -> None:
    """Each run as a thin line, and the means."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    for colour, (name, values) in zip(("#0173b2", "#de8f05"), results.items(), strict=True):
        epochs = np.arange(1, values.shape[1] + 1)
        axes.plot(epochs, values.T, color=colour, alpha=0.3, linewidth=1)
        axes.plot(epochs, values.mean(axis=0), color=colour, linewidth=2.5, label=f"{name} (mean of {len(values)})")
    axes.set(xlabel="epoch", ylabel="validation top-1", title=title, ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=120)


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    settings = parse(Settings, "benchmarks/accuracy", argv)
    shards = ShardSet.open(settings.shards)
    measurement = Measurement(
        settings.json, settings.device, rows=settings.rows, part=settings.part, settings=vars(settings)
    )
    recipe = Recipe(
        model=settings.model, weights="none", image_size=settings.image_size, batch_size=settings.batch_size,
        epochs=settings.epochs, learning_rate=settings.learning_rate, lr_gamma=settings.lr_gamma, patience=None,
    )  # fmt: skip
    runs: dict[str, list[list[dict[str, float]]]] = {"food101_fast": [], "plain loop": []}
    for seed in range(settings.seeds):
        for name, way in (("food101_fast", ours), ("plain loop", plain)):
            rows = way(shards, replace(recipe, seed=seed), measurement.device, settings.workers)
            runs[name].append(rows)
            seconds = sum(row["seconds"] for row in rows)
            measurement.rows.value(f"{name}, seed {seed}", rows[-1]["val_top1"], "top-1", seconds=seconds, epochs=rows)
            print(f"{name}, seed {seed}: top-1 {rows[-1]['val_top1']:.4f}, training {seconds:.1f} s", flush=True)
    verdict = agreement(curves(runs["food101_fast"]), curves(runs["plain loop"]))
    taken = {name: [sum(row["seconds"] for row in rows) for rows in of] for name, of in runs.items()}
    print(
        f"mean top-1 of the last {verdict['last_epochs']} epochs: ours {np.mean(verdict['ours']):.4f}, plain "
        f"{np.mean(verdict['plain']):.4f}; difference {verdict['difference']:+.4f}, its standard error "
        f"{verdict['standard_error']:.4f} (p = {verdict['p_value']:.2f}); plain takes "
        f"{statistics.median(taken['plain loop']) / statistics.median(taken['food101_fast']):.2f} times as long"
    )
    if settings.plot is not None:
        samples = {name: len(shards.split(name)) for name in ("train", "val")}
        title = (
            f"{settings.model}, {settings.image_size} px, {samples['train']:,} images, {samples['val']:,} to validate"
        )
        plot({name: curves(of) for name, of in runs.items()}, title, settings.plot)
    measurement.rows.value("ours - plain loop", verdict["difference"], "top-1", **verdict)
    measurement.publish(
        {k: v for k, v in vars(settings).items() if k not in ("shards", "json", "rows", "plot", "device", "part")},
        samples={name: entry.samples for name, entry in shards.manifest.splits.items()},
        runs=runs,
        agreement=verdict,
    )


if __name__ == "__main__":
    exit_with(main)
