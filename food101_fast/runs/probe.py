"""`probe.json` of a run: what a linear probe found, and where its features are."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from food101_fast.documents import parse
from food101_fast.errors import UserError
from food101_fast.runs.folder import RunFolder
from food101_fast.storage import write_atomically, writing


@dataclass(frozen=True, kw_only=True)
class FeatureFile:
    """Features of a split, float32 (samples, size), in a file of the cache."""

    split: str
    samples: int
    size: int
    """Features of an image."""
    path: str
    """Of the .npy file."""
    bytes: int
    """Of all features."""
    seconds: float
    """That it took to compute them, in this run or in the earlier one that did."""
    reused: bool
    """Whether an earlier run computed them."""

    @property
    def images_per_second(self) -> float:
        """While the features were computed."""
        return self.samples / self.seconds


@dataclass(frozen=True, kw_only=True)
class TriedDecay:
    """A linear classifier of a probe, of which the best is kept."""

    weight_decay: float
    """Factor of half the squared norm of the weights, for standardized features."""
    iterations: int
    """Of L-BFGS, from the classifier of the larger weight decay before it."""
    train_loss: float
    """Mean cross-entropy in nats, without the term of the weight decay."""
    val_loss: float
    val_top1: float
    """Between 0 and 1."""


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """What a linear probe found."""

    model: str
    weights: str
    """As the recipe has them."""
    features: tuple[FeatureFile, ...]
    """Of train and of val."""
    tried: tuple[TriedDecay, ...]
    """In the order in which they were computed, from the largest weight decay on."""
    best: TriedDecay
    """The one with the highest validation top-1, of equals with the lowest validation loss. It is the run's model."""
    knn_top1: float
    """Validation top-1 of the nearest neighbors, between 0 and 1."""
    knn_neighbors: int
    """Training images that vote for a validation image's class."""
    seconds: float
    """Of the whole probe, from the features to the checkpoint."""

    @property
    def feature_size(self) -> int:
        """Features of an image."""
        return self.features[0].size

    @property
    def images_per_second(self) -> float:
        """While features were computed, now or earlier, over all splits."""
        return sum(file.samples for file in self.features) / sum(file.seconds for file in self.features)


def write_probe(folder: Path, result: ProbeResult) -> None:
    """Write `probe.json`.

    Raises:
        UserError: it could not be written.
    """
    path = RunFolder(folder).probe
    with writing(path, "or give another --run"):
        write_atomically(path, orjson.dumps(asdict(result), option=orjson.OPT_INDENT_2))


def read_probe(folder: Path) -> ProbeResult:
    """Read `probe.json`.

    Raises:
        UserError: it is missing or damaged.
    """
    path = RunFolder(folder).probe
    if not path.is_file():
        raise UserError(f"{folder} has no {path.name}, so it is not a finished probe; give another --run")
    return parse(path.read_bytes(), ProbeResult, where=str(path), advice="probe again into another folder")
