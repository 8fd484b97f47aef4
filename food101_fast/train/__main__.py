"""`python -m food101_fast.train`: train a recipe on shards, with any of its fields changed by a flag."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from food101_fast.cli import exit_with, parse
from food101_fast.errors import UserError
from food101_fast.loader import LoaderOptions
from food101_fast.shards import ShardSet
from food101_fast.train.loop import Device, train
from food101_fast.train.recipes import RECIPES, Recipe
from food101_fast.train.run import read_run


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Train an image classifier on shards. The defaults shown are those of the recipe that --recipe names."""

    shards: str
    """Folder of shards made by prepare or indexed by `shards index`, a path or a URL."""
    run: Path
    """Folder for the run: recipe, metrics, checkpoints; made if it is not there."""
    recipe: str = "baseline"
    """Recipe to start from: baseline (fine-tunes an ImageNet MobileNetV2) or demo (a small net, for a CPU)."""
    resume: bool = False
    """Go on with the run in --run, with the recipe stored there; only --epochs and --patience may be changed."""
    device: Device = "auto"
    """Where to train; auto is CUDA where there is one."""
    loading: LoaderOptions = field(default_factory=LoaderOptions)
    """How images are loaded; changes no result."""
    overrides: Recipe
    """The recipe's own fields."""


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    settings = parse(TrainSettings, "train", argv, default=_defaults(argv))
    shards = ShardSet.open(settings.shards)
    metrics = train(
        shards,
        settings.run,
        settings.overrides,
        device=settings.device,
        resume=settings.resume,
        loading=settings.loading,
    )
    split = "" if "test" in shards.manifest.splits else " --split val"
    best = max(metrics, key=lambda row: row["val_top1"])
    print(
        f"{settings.run}: best validation top-1 {best['val_top1']:.4f} in epoch {best['epoch']} of {len(metrics)}; "
        f"next: python -m food101_fast.evaluate --run {settings.run}{split}"
    )


def _defaults(argv: Sequence[str]) -> TrainSettings:
    """The recipe decides the defaults of all other flags, so it is looked for before they are read."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--recipe", default="baseline")
    first.add_argument("--run", type=Path)
    first.add_argument("--resume", action="store_true")
    chosen, _ = first.parse_known_args(argv)
    if chosen.recipe not in RECIPES:
        raise UserError(f"there is no recipe {chosen.recipe!r}; choose from {', '.join(RECIPES)}")
    recipe = RECIPES[chosen.recipe]
    if chosen.resume and chosen.run is not None:
        recipe = read_run(chosen.run).recipe
    return TrainSettings(shards=tyro.MISSING, run=tyro.MISSING, recipe=chosen.recipe, overrides=recipe)


if __name__ == "__main__":
    exit_with(main)
