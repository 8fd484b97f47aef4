"""Accuracy of every recipe, and of single changes to `baseline`, on Food-101 photographs with the official split.

    python benchmarks/recipes.py recipes --photos DIR --names HUB --weights DIR --work DIR [--seeds 3] [--json FILE]
    python benchmarks/recipes.py ablation --photos DIR --names HUB --weights DIR --work DIR [--seeds 3] [--json FILE]

All start from the same ImageNet weights of MobileNetV2, but for the row with another backbone. There are few
photographs and so few steps: batches have 32 images, and `baseline` has ten times its learning rate. Everything else is
the recipe's own. The epoch that is best on val is measured on test.

`ablation` trains `baseline` with one change each, and says what the change gains over it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from annotated_types import Ge, Gt
from estimates import difference
from official import MEASURED, Photographs, Trial, all_tried, line, summed_up
from published import Measurement
from torchvision.transforms import v2

from food101_fast.cli import exit_with, parse
from food101_fast.compute.device import Device
from food101_fast.errors import UserError
from food101_fast.evaluate import evaluate_ensemble
from food101_fast.runs.recipe import Amp
from food101_fast.runs.recipes import RECIPES
from food101_fast.train import Recipe
from food101_fast.transforms import PRESETS
from food101_fast.transforms.color import ColorJitter
from food101_fast.transforms.presets import TrainSpec
from food101_fast.transforms.warp import RandomAffine, RandomRotation

Table = Literal["recipes", "ablation"]

BASELINE = "baseline"
ENSEMBLE = 3  # runs that are averaged

_MOBILENET, _LITE0 = "mobilenet_v2_imagenet.safetensors", "tf_efficientnet_lite0.safetensors"

_BILINEAR = v2.InterpolationMode.BILINEAR
_LARGE = 224
_LARGE_STORED = 256


def _with(transform: v2.Transform, spec: TrainSpec) -> list[v2.Transform]:
    crop, flip, *end = PRESETS[BASELINE](spec)
    return [crop, flip, transform, *end]


# Single parts of the preset `strong`, each on top of the preset `baseline`. A worker process has them, too, since it
# runs this file when it starts.
PRESETS["rotation"] = lambda spec: _with(RandomRotation(15, interpolation=_BILINEAR), spec)
PRESETS["color"] = lambda spec: _with(ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.02), spec)
PRESETS["affine"] = lambda spec: _with(
    RandomAffine(0, translate=(0.1, 0.1), scale=(0.9, 1.1), shear=5, interpolation=_BILINEAR), spec
)


@dataclass(frozen=True, kw_only=True)
class Settings(Photographs):
    """Accuracy of every recipe, or of single changes to `baseline`."""

    table: tyro.conf.Positional[Table]
    """The recipes, or `baseline` with one change each."""
    weights: Path
    """Folder with the files mobilenet_v2_imagenet.safetensors and tf_efficientnet_lite0.safetensors."""
    only: tuple[str, ...] = ()
    """Only these rows, by their names, and baseline."""
    size: Annotated[int, Ge(32)] = 192
    """Height and width of the stored images, in pixels."""
    image_size: Annotated[int, Ge(32)] | None = None
    """Height and width that the model sees, in pixels; by default each recipe's own."""
    batch_size: Annotated[int, Ge(2)] = 32
    """Images in one step."""
    learning_rate: Annotated[float, Gt(0)] = 5e-4
    """Of `baseline`, in the first epoch. Other recipes keep theirs."""
    amp: Amp = "off"
    """Mixed precision."""
    seeds: Annotated[int, Ge(1)] = 3
    """Runs of each row, with the seeds 0, 1, ..."""
    jobs: Annotated[int, Ge(1)] = 1
    """Runs at the same time. With more than 1, their seconds can't be compared."""
    device: Device = "cpu"
    """Where to compute."""
    json: Path | None = None
    """File to write the results to."""

    def start(self, name: str = BASELINE) -> Recipe:
        """A recipe with this measurement's weights, batch and precision."""
        recipe = replace(RECIPES[name], model="mobilenet_v2", weights=str(self.weights / _MOBILENET))
        size = self.image_size or recipe.image_size
        recipe = replace(recipe, image_size=size, batch_size=self.batch_size)
        if recipe.method == "probe":
            return recipe
        recipe = replace(recipe, patience=None, amp=self.amp)
        return replace(recipe, learning_rate=self.learning_rate) if name == BASELINE else recipe

    def rows(self) -> dict[str, tuple[Recipe, int]]:
        """By name, a recipe and the size of the stored images that it trains on."""
        if self.table == "recipes":
            recipes = {name: self.start(name) for name in RECIPES if name != "demo"}
        else:
            recipes = {name: replace(self.start(), **changes) for name, changes in changes_of(self.weights).items()}
        chosen = {name: recipe for name, recipe in recipes.items() if not self.only or name in (BASELINE, *self.only)}
        return {
            name: (recipe, self.size if recipe.image_size < _LARGE else _LARGE_STORED)
            for name, recipe in chosen.items()
        }


def changes_of(weights: Path) -> dict[str, dict[str, Any]]:
    """What each row of the ablation changes in `baseline`."""
    lite0 = {"model": "timm/tf_efficientnet_lite0", "weights": str(weights / _LITE0)}
    return {
        BASELINE: {},
        "EfficientNet-Lite0": lite0,
        "224 px": {"image_size": _LARGE},
        "frozen BatchNorm statistics": {"freeze_batchnorm": True},
        "moving average of the weights": {"ema_decay": 0.99},
        "label smoothing 0.1": {"label_smoothing": 0.1},
        "gradual unfreezing, 3 epochs": {"unfreeze_epochs": 3},
        "layer decay 0.8": {"layer_decay": 0.8},
        "rotation": {"preset": "rotation"},
        "color jitter": {"preset": "color"},
        "affine": {"preset": "affine"},
        "MixUp 0.2": {"mixup_alpha": 0.2},
        "cosine instead of exponential": {"schedule": "cosine"},
    }


def folder_of(settings: Settings, name: str, seed: int) -> Path:
    """Folder of a run; the table with the recipes and the one with single changes share those of `baseline`."""
    words = "".join(letter if letter.isalnum() else "-" for letter in name)
    return settings.work / "runs" / f"{words}-{seed}"


def ensemble(settings: Settings, name: str) -> dict[str, float]:
    """Top-1 and top-5 of the averaged probabilities of a row's first runs."""
    folders = [folder_of(settings, name, seed) for seed in range(ENSEMBLE)]
    found: dict[str, float] = {}
    for split in ("val", "test"):
        together = evaluate_ensemble(folders, split=split).metrics
        found |= {f"{split}_top1": together.top1, f"{split}_top5": together.top5}
    print(f"{ENSEMBLE} x {name}: val top-1 {found['val_top1']:.4f}, test {found['test_top1']:.4f}", flush=True)
    return found


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    settings = parse(Settings, "benchmarks/recipes", argv)
    rows = settings.rows()
    if unknown := set(settings.only) - set(rows):
        raise UserError(f"--only {', '.join(sorted(unknown))}: the table has no such row")
    shards = {size: settings.shards(size) for size in {size for _, size in rows.values()}}
    measurement = Measurement(settings.json, settings.device, settings=vars(settings))
    trials = [
        Trial(
            name=name,
            shards=Path(shards[size].location),
            folder=folder_of(settings, name, seed),
            recipe=replace(recipe, seed=seed),
            device=settings.device,
        )
        for seed in range(settings.seeds)
        for name, (recipe, size) in rows.items()
    ]
    outcomes = all_tried(trials, settings.jobs, lambda trial, outcome: print(line(trial.name, outcome), flush=True))
    gains = {
        name: {
            key: difference(*([getattr(outcome, key) for outcome in outcomes[of]] for of in (name, BASELINE)))
            for key in MEASURED
        }
        for name in rows
        if name != BASELINE
    }
    for name, gain in gains.items():
        print(f"{name} - {BASELINE}: val {gain['val_top1']}, test {gain['test_top1']}")
    some = next(iter(shards.values()))
    measurement.publish(
        {name: value for name, value in vars(settings).items() if not isinstance(value, Path)},
        classes=len(some.classes),
        samples={name: entry.samples for name, entry in some.manifest.splits.items()},
        recipes={name: {**asdict(recipe), "weights": Path(recipe.weights).name} for name, (recipe, _) in rows.items()},
        rows={name: summed_up(of) for name, of in outcomes.items()},
        gains=gains,
        ensembles={name: ensemble(settings, name) for name in rows} if settings.seeds >= ENSEMBLE else {},
    )


if __name__ == "__main__":
    exit_with(main)
