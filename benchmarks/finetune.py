"""Fine-tuning against training from scratch, and linear probes: accuracy and time on a thousand photographs.

    python benchmarks/finetune.py --source PHOTOS --weights DIR [--json FILE]

PHOTOS has a folder of photographs for each class; DIR has the files of weights. Each backbone is trained from its
weights, with BatchNorm's statistics frozen and not, and from random ones, with the same settings and seed. Then each is
probed twice: the second probe finds the features in the cache, which is a folder of this run alone. Every result is
evaluated on val and test.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt
from published import Measurement

from food101_fast.cli import exit_with, parse
from food101_fast.compute.device import Device
from food101_fast.evaluate import evaluate
from food101_fast.limits import check_limits
from food101_fast.prepare import PrepareSettings, prepare
from food101_fast.runs.probe import read_probe
from food101_fast.runs.results import best_epoch
from food101_fast.shards import ShardSet
from food101_fast.train import Recipe, train
from food101_fast.train.probe.compare import table

_BACKBONES = (
    "mobilenet_v2=mobilenet_v2_imagenet.safetensors",
    "timm/tf_efficientnet_lite0=tf_efficientnet_lite0.safetensors",
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Accuracy and time of fine-tuning, training from scratch, and linear probes."""

    source: Path
    """Folder with a folder of photographs for each class."""
    weights: Path
    """Folder of the weights' files."""
    backbones: tuple[str, ...] = _BACKBONES
    """MODEL=FILE for each; the file is in --weights."""
    size: Annotated[int, Ge(32)] = 192
    """Height and width of the stored images, in pixels."""
    image_size: Annotated[int, Ge(32)] = 160
    """Height and width that the models see, in pixels."""
    epochs: Annotated[int, Ge(1)] = 8
    """Epochs of training."""
    batch_size: Annotated[int, Ge(2)] = 32
    """Images in one step."""
    learning_rate: Annotated[float, Gt(0)] = 5e-4
    """Highest one, of Adam."""
    seed: Annotated[int, Ge(0)] = 0
    """Of the split and of training."""
    limit: int | None = None
    """Use only so many photographs."""
    device: Device = "cpu"
    """Where to train."""
    json: Path | None = None
    """File to write the results to."""
    rows: Path | None = None
    """File to append each result to as it is measured."""
    part: str = "finetune"
    """What the rows are marked with."""

    def __post_init__(self) -> None:
        check_limits(self)


def accuracies(run: Path, device: Device) -> dict[str, Any]:
    """Top-1 of a run's best checkpoint on val and test, each with its 95 % interval."""
    found = {split: evaluate(run, split=split, device=device).metrics for split in ("val", "test")}
    return {
        split: {"top1": metrics.top1, "interval": list(metrics.top1_interval), "samples": metrics.samples}
        for split, metrics in found.items()
    }


def _start(recipe: Recipe) -> str:
    """Where a run's weights start, and what becomes of BatchNorm's statistics."""
    if recipe.weights == "none":
        return "random"
    return "ImageNet, statistics frozen" if recipe.freeze_batchnorm else "ImageNet"


def trained(shards: ShardSet, run: Path, recipe: Recipe, device: Device) -> dict[str, Any]:
    """A run to its end: curve, time, and accuracies of its best epoch."""
    begun = time.perf_counter()
    rows = train(shards, run, recipe, device=device).metrics
    seconds = time.perf_counter() - begun
    return {
        "model": recipe.model,
        "start": _start(recipe),
        "seconds": seconds,
        "best_epoch": best_epoch(rows).epoch,
        "curve": [{"train_loss": row.train_loss, "val_loss": row.val_loss, "val_top1": row.val_top1} for row in rows],
        **accuracies(run, device),
    }


def probed(shards: ShardSet, run: Path, recipe: Recipe, device: Device) -> dict[str, Any]:
    """A probe; `seconds` is the whole call."""
    begun = time.perf_counter()
    train(shards, run, recipe, device=device)
    seconds = time.perf_counter() - begun
    found = read_probe(run)
    # A result names no folders of the machine.
    found = replace(
        found,
        weights=Path(found.weights).name,
        features=tuple(replace(file, path=Path(file.path).name) for file in found.features),
    )
    return {"seconds": seconds, "probe": asdict(found), **accuracies(run, device)}


def line(name: str, found: dict[str, Any]) -> str:
    """A result in one line."""
    low, high = found["test"]["interval"]
    return (
        f"{name}: val top-1 {found['val']['top1']:.4f}, test {found['test']['top1']:.4f} ({low:.4f} to {high:.4f}), "
        f"{found['seconds']:.1f} s"
    )


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    settings = parse(Settings, "benchmarks/finetune", argv)
    measurement = Measurement(
        settings.json, settings.device, rows=settings.rows, part=settings.part, settings=vars(settings)
    )
    backbones = [backbone.partition("=")[::2] for backbone in settings.backbones]
    tuning = Recipe(
        image_size=settings.image_size, epochs=settings.epochs, batch_size=settings.batch_size, optimizer="adam",
        learning_rate=settings.learning_rate, schedule="cosine", warmup_epochs=min(0.5, settings.epochs),
        patience=None, seed=settings.seed,
    )  # fmt: skip
    probe = Recipe(
        method="probe", image_size=settings.image_size, batch_size=settings.batch_size, seed=settings.seed
    )  # fmt: skip
    runs: list[dict[str, Any]] = []
    probes: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        os.environ["FOOD101_FAST_CACHE"] = str(folder / "cache")
        prepare(
            PrepareSettings(
                source=f"folder:{settings.source}", out=folder / "shards", size=settings.size, seed=settings.seed,
                limit=settings.limit,
            )
        )  # fmt: skip
        shards = ShardSet.open(folder / "shards")
        for number, (model, file) in enumerate(backbones):
            weights = str(settings.weights / file)
            for start, frozen in ((weights, True), (weights, False), ("none", False)):
                recipe = replace(tuning, model=model, weights=start, freeze_batchnorm=frozen)
                found = trained(shards, folder / f"{number}-{len(runs)}", recipe, settings.device)
                name = f"{model}, {found['start']}"
                runs.append(found)
                measurement.rows.value(name, found["val"]["top1"], "top-1", **found)
                print(line(name, found), flush=True)
            recipe = replace(probe, model=model, weights=weights)
            pair = [probed(shards, folder / f"{number}-probe-{time_}", recipe, settings.device) for time_ in ("1", "2")]
            probes.append({"model": model, "first": pair[0], "second": pair[1]})
            measurement.rows.value(f"{model}, probe", pair[0]["val"]["top1"], "top-1", **probes[-1])
            print(line(f"{model}, probe", pair[0]), flush=True)
            print(line(f"{model}, probe with features from the cache", pair[1]), flush=True)
        print(table({model: read_probe(folder / f"{at}-probe-1") for at, (model, _) in enumerate(backbones)}))
        samples = {name: entry.samples for name, entry in shards.manifest.splits.items()}
    measurement.publish(
        {"training": asdict(tuning), "probe": asdict(probe), "size": settings.size},
        samples=samples,
        runs=runs,
        probes=probes,
    )


if __name__ == "__main__":
    exit_with(main)
