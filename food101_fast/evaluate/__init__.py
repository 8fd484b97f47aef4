"""A trained run in, numbers and plots out."""

from food101_fast.evaluate.job import (
    Evaluation,
    check_same_shards,
    evaluate,
    evaluate_ensemble,
    prefix_of,
    read_evaluation,
    read_predictions,
)

__all__ = [
    "Evaluation",
    "check_same_shards",
    "evaluate",
    "evaluate_ensemble",
    "prefix_of",
    "read_evaluation",
    "read_predictions",
]
