"""Shards in, a trained run out."""

from food101_fast.train.loop import Trained, train
from food101_fast.train.options import RunOptions
from food101_fast.train.recipes import RECIPES, Recipe

__all__ = ["RECIPES", "Recipe", "RunOptions", "Trained", "train"]
