"""A trained run in, predictions for images out; nothing but the run's folder is needed."""

from food101_fast.predict.classifier import Classifier

__all__ = ["Classifier"]
