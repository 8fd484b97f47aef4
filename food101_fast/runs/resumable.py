"""What must be the same when a run is resumed: its data, and its recipe but for a few fields."""

from __future__ import annotations

from pathlib import Path

from food101_fast.errors import UserError
from food101_fast.runs.recipe import CHANGEABLE, Recipe
from food101_fast.runs.run import Run
from food101_fast.shards import ShardSet


def check_resumable(folder: Path, run: Run, recipe: Recipe, shards: ShardSet) -> None:
    """Refuse to resume with other data or another recipe; only the fields in `CHANGEABLE` may change.

    Raises:
        UserError: the data or a field of the recipe differs.
    """
    check_same_recipe(folder, run, recipe)
    if run.data != shards.manifest.digest:
        if (appended := run.appended_since(shards)) is not None:
            raise UserError(f"{folder} can't be resumed: {appended}")
        if run.overlay_digests != shards.manifest.overlays:
            raise UserError(
                f"{folder} can't be resumed: the overlays are not {run.named_overlays}; give those to --overlay, or "
                "train a new run"
            )
        if run.shards == shards.location:
            raise UserError(
                f"{folder} was trained on other shards than {shards.location} has now; give a copy of its own to "
                "--shards, or train a new run"
            )
        raise UserError(
            f"{folder} was trained on other shards ({run.shards}) than {shards.location}; give those to --shards"
        )


def check_same_recipe(folder: Path, run: Run, recipe: Recipe) -> None:
    """Refuse to resume with another recipe; only the fields in `CHANGEABLE` may change.

    Raises:
        UserError: a field differs; the sentence has all of them.
    """
    different = [
        f"--{name.replace('_', '-')} {given} (it was trained with {stored})"
        for name, stored, given in run.recipe.differences(recipe)
        if name not in CHANGEABLE
    ]
    if different:
        raise UserError(f"{folder} can't be resumed with {', '.join(different)}; give the same, or another --run")
