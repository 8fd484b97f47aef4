"""What an evaluation leaves in a run's folder: metrics, and the predictions that they were computed from."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import xxhash
from numpy.typing import NDArray

from food101_fast.errors import UserError
from food101_fast.runs.checkpoint import weights_hash
from food101_fast.runs.folder import RunFolder
from food101_fast.storage import write_atomically, writing

MEMBER_KEYS = ("weights", "tta", "top1", "top5", "loss")
"""What the metrics of an average say about each of its runs."""


@dataclass(frozen=True, eq=False)
class StoredPredictions:
    """What a model says about every sample of a split."""

    ids: NDArray[np.int64]
    """(N,)."""
    labels: NDArray[np.int64]
    """(N,)."""
    logits: NDArray[np.float32]
    """(N, classes)."""


def write_evaluation(
    folder: Path, split: str, metrics: dict[str, Any], predictions: StoredPredictions, *, ensemble: bool = False
) -> tuple[Path, Path]:
    """Write predictions, and then the metrics with the hash of that file: a kill between the two leaves metrics that
    `read_evaluation` does not take for those of the new predictions.

    Args:
        folder: of the run.
        split: that was evaluated.
        metrics: of the predictions.
        predictions: of the best checkpoint, or the average of several runs.
        ensemble: whether it is the average.

    Returns:
        The files of the metrics and of the predictions.

    Raises:
        UserError: they could not be written.
    """
    files, stream = RunFolder(folder), BytesIO()
    np.savez(stream, **vars(predictions))
    paths = files.evaluation(split, ensemble=ensemble), files.predictions(split, ensemble=ensemble)
    document = {**metrics, "predictions": xxhash.xxh3_64_hexdigest(stream.getvalue())}
    with writing(folder, "then evaluate again"):
        write_atomically(paths[1], stream.getvalue())
        write_atomically(paths[0], orjson.dumps(document, option=orjson.OPT_INDENT_2))
    return paths


def read_evaluation(folder: Path, split: str) -> dict[str, Any] | None:
    """Metrics of a split; None if there are none, or if the best weights or the predictions are others by now.

    Raises:
        UserError: the file is damaged.
    """
    metrics = _read(RunFolder(folder).evaluation(split))
    if metrics is None or metrics.get("weights") != weights_hash(folder, "best"):
        return None
    path = RunFolder(folder).predictions(split)
    stored = xxhash.xxh3_64_hexdigest(path.read_bytes()) if path.is_file() else None
    return metrics if metrics.get("predictions") == stored else None


def read_ensemble(folder: Path, split: str, metrics: dict[str, Any]) -> dict[str, Any] | None:
    """Metrics of the average of this run and others; None if there are none, or if this run's are others by now.

    Args:
        folder: of the first run.
        split: that was evaluated.
        metrics: of this run alone.

    Raises:
        UserError: the file is damaged.
    """
    found = _read(RunFolder(folder).evaluation(split, ensemble=True))
    if found is None or any(found["members"][0][key] != metrics[key] for key in MEMBER_KEYS):
        return None
    return found


def read_predictions(folder: Path, split: str) -> StoredPredictions:
    """Predictions of a split.

    Raises:
        UserError: they are not there, or damaged.
    """
    path = RunFolder(folder).predictions(split)
    try:
        with np.load(path) as arrays:
            return StoredPredictions(arrays["ids"], arrays["labels"], arrays["logits"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} can't be read ({error}); evaluate the run again") from error


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        document: dict[str, Any] = orjson.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); evaluate the run again") from error
    return document
