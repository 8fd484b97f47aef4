"""What a command line of `train` says before its flags are read: the recipe that they change, and a native size."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from food101_fast.models import inputs_of
from food101_fast.runs.folder import RunFolder
from food101_fast.runs.recipe import Recipe
from food101_fast.runs.recipe_files import load_recipe
from food101_fast.runs.run import read_run


def recipe_before_flags(argv: Sequence[str], name: str) -> tuple[str, Recipe]:
    """The recipe that the flags in `argv` change.

    Without --recipe it is that of the run to resume, if there is one: all that the flags do not name is as stored.

    Args:
        argv: arguments of the command.
        name: of the recipe where neither --recipe nor a run to resume has one.

    Returns:
        Its name or file, and the recipe.

    Raises:
        UserError: there is no such recipe, or its file or the run's `recipe.json` can't be used.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--recipe")
    first.add_argument("--run", type=Path)
    first.add_argument("--resume", action="store_true")
    chosen, _ = first.parse_known_args(argv)
    if chosen.recipe is None and chosen.resume and chosen.run is not None and RunFolder(chosen.run).recipe.is_file():
        return name, read_run(chosen.run).recipe
    name = name if chosen.recipe is None else chosen.recipe
    return name, load_recipe(name)


def with_native_size(argv: Sequence[str], defaults: Recipe) -> Sequence[str]:
    """The arguments with a number in `--image-size native`: the size that the backbone was pretrained with.

    Args:
        argv: arguments of the command.
        defaults: model and weights where no flag names them.

    Raises:
        UserError: there is no such model.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("image-size", "model", "weights"):
        first.add_argument(f"--{name}", f"--{name.replace('-', '_')}", default="")
    chosen, _ = first.parse_known_args(argv)
    if chosen.image_size != "native":
        return argv
    size = inputs_of(chosen.model or defaults.model, chosen.weights or defaults.weights).size
    flags = ("--image-size", "--image_size")
    return [
        str(size)
        if before in flags
        else f"{flags[0]}={size}"
        if argument.partition("=")[0] in flags and "=" in argument
        else argument
        for before, argument in zip(("", *argv), argv, strict=False)
    ]
