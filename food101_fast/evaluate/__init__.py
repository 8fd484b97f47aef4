"""A trained run in, numbers and plots out."""

from food101_fast.evaluate.job import Evaluation, evaluate, evaluate_ensemble, read_evaluation, read_predictions

__all__ = ["Evaluation", "evaluate", "evaluate_ensemble", "read_evaluation", "read_predictions"]
