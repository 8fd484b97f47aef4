"""Shards in, a trained run out."""

from food101_fast.runs.recipe import RECIPES, Recipe
from food101_fast.train.loop import Trained, train
from food101_fast.train.options import RunOptions

__all__ = ["RECIPES", "Recipe", "RunOptions", "Trained", "train"]
