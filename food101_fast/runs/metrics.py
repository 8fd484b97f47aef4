"""What an evaluation measures, as `test_metrics.json` stores it: scores of a split, of each class, and of an average.

The names of the fields are the keys in the file. Where a number is not defined, it is None: recall and F1 of a class
without samples, precision of one that was never predicted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How far confidence, the probability of the predicted class, is from accuracy; in bins of equal width."""

    ece: float
    """Expected calibration error: mean distance of accuracy and confidence, between 0 and 1."""
    count: tuple[int, ...]
    """Samples in each bin."""
    confidence: tuple[float | None, ...]
    """Mean confidence in each bin; None in an empty one."""
    accuracy: tuple[float | None, ...]
    """Accuracy in each bin; None in an empty one."""


@dataclass(frozen=True, kw_only=True)
class ConfusedPair:
    """A frequent mistake."""

    true: str
    """The true class."""
    predicted: str
    """The predicted class."""
    count: int
    """Samples."""
    share: float
    """Their share of the samples of the true class."""


@dataclass(frozen=True, kw_only=True)
class ClassMetrics:
    """Scores of one class, between 0 and 1."""

    support: int
    """Samples of the class."""
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What follows from logits and labels alone."""

    samples: int
    loss: float
    """Mean cross-entropy in nats."""
    top1: float
    """Accuracy, between 0 and 1."""
    top5: float
    """Share of samples whose class is among the five most probable."""
    top1_interval: tuple[float, float]
    """Ends of the 95 % bootstrap interval of `top1`."""
    macro_f1: float
    """Mean over the classes that have samples."""
    balanced_accuracy: float = math.nan
    """Mean recall over the classes that have samples. It follows from `per_class`; files from before do not have it."""
    calibration: Calibration
    confused: tuple[ConfusedPair, ...]
    """The most frequent mistakes, the most frequent first."""
    per_class: dict[str, ClassMetrics]
    """By class name, in the order of the labels."""

    def __post_init__(self) -> None:
        if math.isnan(self.balanced_accuracy):
            recalls = [entry.recall for entry in self.per_class.values() if entry.recall is not None]
            object.__setattr__(self, "balanced_accuracy", math.fsum(recalls) / max(len(recalls), 1))

    @property
    def tells_top5(self) -> bool:
        """Whether top-5 says something: with five classes or fewer it is always 1."""
        return tells_top5(len(self.per_class))

    @property
    def untested(self) -> tuple[str, ...]:
        """Classes without a sample; `macro_f1` and `balanced_accuracy` are means over the others."""
        return tuple(name for name, entry in self.per_class.items() if not entry.support)

    @property
    def most_frequent(self) -> str:
        """The class with the most samples, the first of several."""
        return max(self.per_class, key=lambda name: self.per_class[name].support)

    @property
    def only_answer(self) -> str | None:
        """The class that the model named for every sample; None if it named several classes."""
        named = [name for name, entry in self.per_class.items() if entry.precision is not None]
        return named[0] if len(named) == 1 < len(self.per_class) else None

    @property
    def baseline(self) -> float:
        """The top-1 of a model that always answers `most_frequent`."""
        return self.per_class[self.most_frequent].support / self.samples


def tells_top5(classes: int) -> bool:
    """Whether top-5 says something about a model of this many classes."""
    return classes > 5


@dataclass(frozen=True, kw_only=True)
class CalibratedScores:
    """Scores of a split after its logits are divided by a temperature; top-1 and the like stay as they are."""

    temperature: float
    fitted_on: str
    """The split that the temperature was fitted on."""
    loss: float
    """Mean cross-entropy in nats."""
    ece: float
    """Expected calibration error, between 0 and 1."""


@dataclass(frozen=True, kw_only=True)
class SplitMetrics(Scores):
    """Scores of a run's best checkpoint on a split."""

    split: str
    tta: str
    """Test-time augmentation: none, flip or crops."""
    weights: str
    """XXH3-64 of the checkpoint's weights, 16 hexadecimal digits."""
    predictions: str
    """XXH3-64 of the file of predictions, 16 hexadecimal digits."""
    protocol: str = ""
    """Where the splits come from, in words: what the scores may be compared with."""
    calibrated: CalibratedScores | None = None
    """With a temperature; None if none was fitted."""


@dataclass(frozen=True, kw_only=True)
class EnsembleMember:
    """A run in an average, and its own scores."""

    run: str
    """Folder of the run."""
    weights: str
    tta: str
    top1: float
    top5: float
    loss: float


@dataclass(frozen=True, kw_only=True)
class EnsembleMetrics(Scores):
    """Scores of the averaged probabilities of several runs."""

    split: str
    members: tuple[EnsembleMember, ...]
    """At least one, the run whose folder has the file first."""
    predictions: str
    """XXH3-64 of the file of averaged predictions, 16 hexadecimal digits."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.members:
            raise ValueError("an average has members")


def as_member(run: str, metrics: SplitMetrics) -> EnsembleMember:
    """What the metrics of an average say about one of its runs."""
    return EnsembleMember(
        run=run,
        weights=metrics.weights,
        tta=metrics.tta,
        top1=metrics.top1,
        top5=metrics.top5,
        loss=metrics.loss,
    )
