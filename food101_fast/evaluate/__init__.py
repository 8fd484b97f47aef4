"""A trained run in, numbers and plots out."""

from food101_fast.evaluate.job import Evaluation, check_same_shards, evaluate, evaluate_ensemble

__all__ = [
    "Evaluation",
    "check_same_shards",
    "evaluate",
    "evaluate_ensemble",
]
