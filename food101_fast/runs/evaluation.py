"""Files of an evaluation in a run's folder: the metrics, and the predictions that they were computed from."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import numpy as np
import orjson
import xxhash
from numpy.typing import NDArray
from scipy.special import softmax

from food101_fast.documents import parse
from food101_fast.errors import UserError
from food101_fast.runs.checkpoint import weights_hash
from food101_fast.runs.folder import RunFolder
from food101_fast.runs.metrics import CalibratedScores, EnsembleMember, EnsembleMetrics, Scores, SplitMetrics, as_member
from food101_fast.storage import Content, file_hash, write_atomically, writing

_BLOCK = 2**20  # scores that are computed with at a time

_Metrics = TypeVar("_Metrics", SplitMetrics, EnsembleMetrics)


def row_blocks(scores: NDArray[np.float32], copies: int = 1) -> Iterator[slice]:
    """Slices of the rows of (N, classes), so that what is computed of a slice stays small.

    Args:
        scores: (N, classes).
        copies: arrays like it that are computed with together.
    """
    rows = max(1, _BLOCK // (copies * scores.shape[1]))
    return (slice(first, first + rows) for first in range(0, len(scores), rows))


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model predicts for every sample of a split."""

    ids: NDArray[np.int64]
    """(N,), sample ids within the split."""
    labels: NDArray[np.int64]
    """(N,), the true classes."""
    logits: NDArray[np.float32]
    """(N, classes)."""

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """(N,), the most probable class of each sample."""
        return np.asarray(self.logits.argmax(axis=1), np.int64)

    def probabilities(self, index: int) -> NDArray[np.float64]:
        """(classes,) of a sample by its index; they add up to 1."""
        return np.asarray(softmax(self.logits[index].astype(np.float64)))

    @cached_property
    def confidence(self) -> NDArray[np.float64]:
        """(N,), the probability of each sample's most probable class."""
        blocks = (self.logits[rows].astype(np.float64) for rows in row_blocks(self.logits))
        return np.concatenate([softmax(block, axis=1).max(axis=1) for block in blocks])

    def mistakes(self, true: int | None = None, predicted: int | None = None) -> NDArray[np.int64]:
        """Indices of the wrongly predicted samples, the most confident first.

        Args:
            true: only samples of this class.
            predicted: only samples that were predicted as this class.

        Returns:
            int64 (mistakes,), indices into `ids`, `labels` and `logits`.
        """
        wrong = self.predicted != self.labels
        if true is not None:
            wrong &= self.labels == true
        if predicted is not None:
            wrong &= self.predicted == predicted
        indices = np.flatnonzero(wrong)
        order = np.argsort(-self.confidence[indices], kind="stable")
        return np.asarray(indices[order], np.int64)


def write_evaluation(
    folder: Path,
    split: str,
    scores: Scores,
    predictions: Predictions,
    *,
    tta: str,
    weights: str,
    protocol: str,
    calibrated: CalibratedScores | None = None,
) -> SplitMetrics:
    """Write the evaluation of a run's best checkpoint on a split.

    Predictions come first, and then the metrics with the hash of that file: if the process is killed between the two,
    `read_evaluation` does not pair the old metrics with the new predictions.

    Args:
        folder: of the run.
        split: that was evaluated.
        scores: of the predictions.
        predictions: of the best checkpoint.
        tta: test-time augmentation that the predictions were averaged over.
        weights: hash of the checkpoint's weights.
        protocol: where the split comes from, in words.
        calibrated: scores with a temperature.

    Raises:
        UserError: the files could not be written.
    """
    content = _packed(predictions)
    metrics = SplitMetrics(
        split=split,
        tta=tta,
        weights=weights,
        protocol=protocol,
        predictions=_hash(content),
        calibrated=calibrated,
        **vars(scores),
    )
    # As in all earlier files, what was evaluated comes before the scores.
    document = {"split": split, "tta": tta, "weights": weights, "protocol": protocol} | asdict(metrics)
    files = RunFolder(folder)
    _write(folder, files.predictions(split), content, files.evaluation(split), document)
    return metrics


def write_ensemble(
    folder: Path, split: str, scores: Scores, predictions: Predictions, members: Sequence[EnsembleMember]
) -> EnsembleMetrics:
    """Write the average of several runs, predictions first.

    Args:
        folder: of the first run.
        split: that was evaluated.
        scores: of the averaged predictions.
        predictions: of which the probabilities are averages.
        members: the runs, this one first.

    Raises:
        UserError: the files could not be written.
    """
    content = _packed(predictions)
    metrics = EnsembleMetrics(split=split, members=tuple(members), predictions=_hash(content), **vars(scores))
    document = {"split": split, "members": []} | asdict(metrics)
    files = RunFolder(folder)
    _write(folder, files.predictions(split, ensemble=True), content, files.evaluation(split, ensemble=True), document)
    return metrics


def read_evaluation(folder: Path, split: str) -> SplitMetrics | None:
    """Metrics of a split; None if there are none, or if the best weights or the predictions changed since.

    Raises:
        UserError: the file is damaged.
    """
    metrics = _read(RunFolder(folder).evaluation(split), SplitMetrics)
    if metrics is None or metrics.weights != weights_hash(folder, "best"):
        return None
    path = RunFolder(folder).predictions(split)
    return metrics if path.is_file() and metrics.predictions == file_hash(path) else None


def read_ensemble(folder: Path, split: str, metrics: SplitMetrics) -> EnsembleMetrics | None:
    """Metrics of the average of this run and others; None if there are none, or if this run's changed since.

    Args:
        folder: of the first run.
        split: that was evaluated.
        metrics: of this run alone.

    Raises:
        UserError: the file is damaged.
    """
    found = _read(RunFolder(folder).evaluation(split, ensemble=True), EnsembleMetrics)
    if found is None or found.members[0] != as_member(found.members[0].run, metrics):
        return None
    return found


def read_predictions(folder: Path, split: str) -> Predictions:
    """Predictions of a split.

    Raises:
        UserError: they are missing or damaged.
    """
    path = RunFolder(folder).predictions(split)
    try:
        with np.load(path) as arrays:
            return Predictions(arrays["ids"], arrays["labels"], arrays["logits"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} can't be read ({error}); evaluate the run again") from error


def _packed(predictions: Predictions) -> Content:
    stream = BytesIO()
    np.savez(stream, ids=predictions.ids, labels=predictions.labels, logits=predictions.logits)
    return stream.getbuffer()  # without a copy


def _hash(content: Content) -> str:
    return xxhash.xxh3_64_hexdigest(content)


def _write(folder: Path, predictions: Path, content: Content, metrics: Path, document: dict[str, object]) -> None:
    with writing(folder, "then evaluate again"):
        write_atomically(predictions, content)
        write_atomically(metrics, orjson.dumps(document, option=orjson.OPT_INDENT_2))


def _read(path: Path, kind: type[_Metrics]) -> _Metrics | None:
    if not path.is_file():
        return None
    return parse(path.read_bytes(), kind, where=str(path), advice="evaluate the run again")
