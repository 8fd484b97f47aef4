"""Measuring a trained run, or the average of several, on a split: metrics, predictions and plots."""

from food101_fast.evaluate.job import Evaluation, check_same_shards, evaluate, evaluate_ensemble

__all__ = [
    "Evaluation",
    "check_same_shards",
    "evaluate",
    "evaluate_ensemble",
]
