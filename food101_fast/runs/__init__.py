"""A run's folder: recipe, checkpoints, metrics and predictions. `folder` has the names of all its files."""

from food101_fast.runs.folder import RunFolder
from food101_fast.runs.recipe import Recipe
from food101_fast.runs.recipe_files import load_recipe
from food101_fast.runs.recipes import RECIPES
from food101_fast.runs.run import Run, load_model, read_run

__all__ = ["RECIPES", "Recipe", "Run", "RunFolder", "load_model", "load_recipe", "read_run"]
