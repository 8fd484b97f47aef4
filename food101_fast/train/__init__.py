"""Shards in, a trained run out."""

from food101_fast.train.loop import train
from food101_fast.train.recipes import RECIPES, Recipe

__all__ = ["RECIPES", "Recipe", "train"]
