"""A run's folder: its recipe, checkpoints, metrics of epochs and splits, and predictions. To change a file name: `folder`."""

from food101_fast.runs.folder import RunFolder
from food101_fast.runs.recipe import RECIPES, Recipe
from food101_fast.runs.run import Run, load_model, read_run

__all__ = ["RECIPES", "Recipe", "Run", "RunFolder", "load_model", "read_run"]
