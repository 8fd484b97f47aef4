"""The recipe that a command line of `train` starts from, which decides the defaults of all its other flags."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

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
