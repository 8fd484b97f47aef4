"""Measure a run's best checkpoint on a split, and write what was found into the run's folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from food101_fast.errors import UserError
from food101_fast.evaluate.metrics import compute_metrics, confusion, normalised
from food101_fast.evaluate.plots import plot_confusion, plot_curves
from food101_fast.loader import ShardLoader
from food101_fast.prepare.overview import plot_class_counts
from food101_fast.shards import ShardSet
from food101_fast.shards.folder import write_atomically
from food101_fast.train.checkpoint import load_checkpoint
from food101_fast.train.loop import Device, choose_device
from food101_fast.train.model import build_model, load_weights
from food101_fast.train.precision import Precision
from food101_fast.train.run import Run, read_metrics, read_run
from food101_fast.train.validate import predict
from food101_fast.transforms import eval_preset


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What an evaluation found and where it lies."""

    metrics: dict[str, Any]
    files: tuple[Path, ...]


def evaluate(
    folder: Path,
    *,
    split: str = "test",
    shards: str | Path | None = None,
    device: Device = "auto",
    batch_size: int = 256,
) -> Evaluation:
    """Evaluate the best checkpoint of the run in `folder`.

    Writes `{split}_metrics.json`, `predictions.npz` (`ids`, `labels`, `logits`), and PNGs of the confusion matrix,
    the curves and the class counts. For a split other than test the names of predictions and confusion matrix begin
    with it.

    Raises:
        UserError: there is no trained run or its shards are not there or are others.
    """
    run = read_run(folder)
    place = run.shards if shards is None else shards
    shard_set = ShardSet.open(place)
    if shard_set.manifest.digest != run.data:
        raise UserError(f"{folder} was trained on other shards than {place}; give the right ones to --shards")
    ids, labels, logits = _logits(folder, run, shard_set, split, choose_device(device), batch_size)
    metrics = {"split": split, **compute_metrics(logits, labels, run.classes)}
    prefix = "" if split == "test" else f"{split}_"
    paths = {
        "metrics": folder / f"{split}_metrics.json",
        "predictions": folder / f"{prefix}predictions.npz",
        "confusion": folder / f"{prefix}confusion_matrix.png",
        "curves": folder / "curves.png",
        "counts": folder / "class_counts.png",
    }
    write_atomically(paths["metrics"], orjson.dumps(metrics, option=orjson.OPT_INDENT_2))
    np.savez(paths["predictions"], ids=ids, labels=labels, logits=logits)
    plot_confusion(normalised(confusion(logits, labels)), run.classes, paths["confusion"])
    plot_curves(read_metrics(folder), paths["curves"])
    counts = {name: entry.class_counts for name, entry in shard_set.manifest.splits.items()}
    plot_class_counts(counts, run.classes).savefig(paths["counts"])
    return Evaluation(metrics=metrics, files=tuple(paths.values()))


def _logits(
    folder: Path, run: Run, shards: ShardSet, split: str, device: torch.device, batch_size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    loader = ShardLoader(shards, split=split, batch_size=batch_size, device=device, shuffle=False, drop_last=False)
    weights, _ = load_checkpoint(folder, "best")
    model = build_model(run.recipe.model, "none", len(run.classes))
    load_weights(model, weights)
    model.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    preset = eval_preset(run.recipe.image_size, run.stored_size)
    batches = predict(model, loader, preset, Precision(run.recipe.amp, device))
    # The results stay on the device until the end, so that no batch waits for the one before it.
    parts = list(tqdm(batches, total=len(loader), desc=f"evaluate {split}", unit="batches"))
    logits, labels, ids = (torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True))
    return ids, labels, logits
