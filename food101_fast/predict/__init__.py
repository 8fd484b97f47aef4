"""Predictions of a trained run for new images; only the run's folder is needed."""

from food101_fast.predict.classifier import Classifier

__all__ = ["Classifier"]
