"""A trained run in, numbers and plots out."""

from food101_fast.evaluate.job import Evaluation, evaluate, evaluate_ensemble

__all__ = ["Evaluation", "evaluate", "evaluate_ensemble"]
