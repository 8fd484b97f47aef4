"""Shards in, a trained run out.

`job.train` is the whole of it, `start.started` makes or resumes a run, and `loop.Trainer` has its loop.
"""

from food101_fast.runs.recipe import Recipe
from food101_fast.runs.recipes import RECIPES
from food101_fast.train.context import Hooks
from food101_fast.train.job import Trained, train
from food101_fast.train.options import RunOptions

__all__ = ["RECIPES", "Hooks", "Recipe", "RunOptions", "Trained", "train"]
