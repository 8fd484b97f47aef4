"""Each choice of --class-balance on a long-tailed cut of Food-101 at 64 px: balanced accuracy and top-1 on test.

    python benchmarks/balance.py --work DIR [--data DIR] [--seeds 3] [--json FILE]

The cut ("exp" of Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", NeurIPS 2019):
class i of C has largest * ratio ** (-i / (C - 1)) training images. Which classes, their order and their images are
drawn with a fixed seed. Val and test are balanced, and both from the official validation split, which has no image of
train. All is written as split folders into DIR/images and prepared with `--splits source` into DIR/shards.

A run that DIR/runs has with its evaluation is not trained again, so the script can be interrupted.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
import pyarrow.parquet as parquet
from estimates import mean_and_error
from published import Measurement

from food101_fast.cli import exit_with, parse
from food101_fast.errors import UserError
from food101_fast.runs.evaluation import read_evaluation
from food101_fast.runs.metrics import SplitMetrics
from food101_fast.runs.results import read_metrics
from food101_fast.runs.run import read_run
from food101_fast.shards import ShardSet

CHOICES: dict[str, list[str]] = {
    "none": [],
    "weights, inverse": ["--class-balance", "weights", "--class-weights", "inverse"],
    "weights, effective": ["--class-balance", "weights", "--class-weights", "effective"],
    "sampling": ["--class-balance", "sampling"],
    "logit-adjust": ["--class-balance", "logit-adjust"],
}
"""By name, further flags of `train`."""

CUT_SEED = 2019
_CHUNK = 1000  # rows that are read at a time


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Class balance on a long-tailed cut of Food-101 at 64 px, several seeds of each choice."""

    work: Path
    """Folder for the images, the shards and the runs."""
    data: Path | None = None
    """Folder with `food101-64px` and `weights`; by default that of FOOD101_FAST_DATA."""
    choices: tuple[str, ...] = tuple(CHOICES)
    """Which, by their names."""
    classes: int = 20
    """Classes of the cut."""
    largest: int = 400
    """Training images of the largest class."""
    ratio: float = 100.0
    """How many times as many as the smallest one has."""
    val: int = 25
    """Validation images of each class."""
    test: int = 100
    """Test images of each class."""
    seeds: int = 3
    """Runs of each choice, with the seeds 0, 1, ..."""
    model: str = "mobilenet_v2"
    """Model, which starts from `weights`."""
    weights: str = "mobilenet_v2_imagenet.safetensors"
    """File in the folder `weights` of the data, or none."""
    image_size: int = 64
    """Height and width that the model sees, in pixels."""
    batch_size: int = 32
    """Images in one step."""
    epochs: int = 8
    """Epochs of each run."""
    learning_rate: float = 5e-4
    """Of AdamW, at most."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to compute."""
    json: Path | None = None
    """File to write the results to."""


def class_sizes(classes: int, largest: int, ratio: float) -> list[int]:
    """Training images of each class, the largest first."""
    steps = max(classes - 1, 1)
    return [max(1, round(largest * ratio ** (-number / steps))) for number in range(classes)]


def wanted(settings: Settings, labels: dict[str, np.ndarray]) -> dict[str, dict[int, str]]:
    """The folder below `images` of each row that is used, by source split and row.

    Args:
        settings: of the cut.
        labels: (rows,) of the source's splits train and validation.

    Raises:
        UserError: there are too few images.
    """
    random = np.random.default_rng(CUT_SEED)
    chosen = random.permutation(int(labels["train"].max()) + 1)[: settings.classes]
    rows: dict[str, dict[int, str]] = {"train": {}, "validation": {}}
    if len(chosen) < settings.classes:
        raise UserError(f"--classes {settings.classes}: the data have {len(chosen)}")
    for label, size in zip(chosen, class_sizes(settings.classes, settings.largest, settings.ratio), strict=True):
        for split, cut in (("train", {"train": size}), ("validation", {"val": settings.val, "test": settings.test})):
            found = random.permutation(np.flatnonzero(labels[split] == label))
            if len(found) < sum(cut.values()):
                raise UserError(f"class {label} has {len(found)} images in {split}, fewer than {sum(cut.values())}")
            targets = [name for name, count in cut.items() for _ in range(count)]
            rows[split] |= {int(row): f"{name}/{label:03d}" for row, name in zip(found, targets, strict=False)}
    return rows


def stored(files: Sequence[Path], column: str) -> Iterator[Any]:
    """A column of parquet files, row by row."""
    for file in files:
        for batch in parquet.ParquetFile(file).iter_batches(_CHUNK, columns=[column]):
            yield from batch.column(0).to_pylist()


def write_images(settings: Settings, source: Path, folder: Path) -> None:
    """The cut as split folders. Complete if it exists, since it is renamed at the end.

    Raises:
        UserError: the source has no parquet files.
    """
    files = {split: sorted(source.rglob(f"{split}-*.parquet")) for split in ("train", "validation")}
    if not all(files.values()):
        raise UserError(f"{source} has no train-*.parquet and validation-*.parquet; give its parent folder to --data")
    labels = {split: np.fromiter(stored(of, "label"), np.int64) for split, of in files.items()}
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    for split, targets in wanted(settings, labels).items():
        for row, image in enumerate(stored(files[split], "image")):
            if row in targets:
                path = unfinished / targets[row] / f"{split}-{row:06d}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(image["bytes"])
    unfinished.rename(folder)


def command(name: str, *flags: object) -> None:
    """Run a command of food101_fast.

    Raises:
        UserError: it fails; what it said stands above.
    """
    words = [sys.executable, "-m", f"food101_fast.{name}", *map(str, flags)]
    if subprocess.run(words, stdout=sys.stderr, check=False).returncode:
        raise UserError(f"{' '.join(words[2:])} failed; the reason stands above")


def shards_of(settings: Settings, data: Path) -> Path:
    """The shards of the cut, made if they are not there."""
    images, shards = settings.work / "images", settings.work / "shards"
    if not images.exists():
        write_images(settings, data / "food101-64px", images)
    command(
        "prepare", "--source", f"folder:{images}", "--out", shards, "--splits", "source", "--size", settings.image_size,
        "--duplicates", "keep", "--quiet",
    )  # fmt: skip
    return shards


def measured(settings: Settings, data: Path, shards: Path, choice: str, seed: int) -> tuple[SplitMetrics, float]:
    """Test metrics of a run and its training seconds; it is trained if it is not there."""
    run = settings.work / "runs" / f"{choice.replace(', ', '-')}-{seed}"
    if not run.exists() or read_evaluation(run, "test") is None:
        shutil.rmtree(run, ignore_errors=True)
        weights = settings.weights if settings.weights == "none" else data / "weights" / settings.weights
        command(
            "train", "--shards", shards, "--run", run, "--model", settings.model, "--weights", weights,
            "--image-size", settings.image_size, "--batch-size", settings.batch_size, "--epochs", settings.epochs,
            "--optimizer", "adamw", "--learning-rate", settings.learning_rate, "--weight-decay", 0.05,
            "--schedule", "cosine", "--warmup-epochs", min(1, settings.epochs / 4), "--patience", None,
            "--seed", seed, "--device", settings.device, *CHOICES[choice],
        )  # fmt: skip
        command("evaluate", "--run", run, "--device", settings.device)
    metrics = read_evaluation(run, "test")
    if metrics is None or read_run(run).recipe.epochs != settings.epochs:
        raise UserError(f"{run} was trained with other settings; remove it, or give another --work")
    return metrics, sum(row.timing.seconds for row in read_metrics(run))


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard error and the values."""
    return {**mean_and_error(values), "n": len(values), "values": list(values)}


def thirds(metrics: SplitMetrics, counts: Sequence[int]) -> list[float]:
    """Mean recall of the third of the classes with the fewest training images, the next, and the most."""
    recalls = [entry.recall or 0.0 for entry in metrics.per_class.values()]
    return [float(np.mean([recalls[label] for label in of])) for of in np.array_split(np.argsort(counts), 3)]


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    settings = parse(Settings, "benchmarks/balance", argv)
    if unknown := set(settings.choices) - set(CHOICES):
        raise UserError(f"--choices {' '.join(sorted(unknown))}: choose from {', '.join(CHOICES)}")
    given = settings.data or os.environ.get("FOOD101_FAST_DATA")
    if given is None:
        raise UserError("give the folder of the data to --data, or set FOOD101_FAST_DATA")
    (settings.work / "runs").mkdir(parents=True, exist_ok=True)
    measurement = Measurement(settings.json, settings.device, settings=vars(settings))
    shards = shards_of(settings, Path(given))
    splits = ShardSet.open(shards).manifest.splits
    found: dict[str, list[tuple[SplitMetrics, float]]] = {choice: [] for choice in settings.choices}
    for seed in range(settings.seeds):
        for choice in settings.choices:
            metrics, seconds = measured(settings, Path(given), shards, choice, seed)
            found[choice].append((metrics, seconds))
            print(
                f"{choice}, seed {seed}: balanced accuracy {metrics.balanced_accuracy:.4f}, top-1 {metrics.top1:.4f}, "
                f"training {seconds:.0f} s",
                flush=True,
            )
    results = {}
    for choice, runs in found.items():
        of_thirds = [thirds(metrics, splits["train"].class_counts) for metrics, _ in runs]
        results[choice] = {
            "balanced_accuracy": summary([metrics.balanced_accuracy for metrics, _ in runs]),
            "top1": summary([metrics.top1 for metrics, _ in runs]),
            "seconds": [seconds for _, seconds in runs],
            **{
                name: summary(of)
                for name, of in zip(("few", "medium", "many"), zip(*of_thirds, strict=True), strict=True)
            },
        }
    print(orjson.dumps(results, option=orjson.OPT_INDENT_2).decode())
    kept = {name: value for name, value in vars(settings).items() if not isinstance(value, Path)}
    measurement.publish(
        kept,
        cut={
            "seed": CUT_SEED,
            "train": splits["train"].class_counts,
            "samples": {name: entry.samples for name, entry in splits.items()},
        },
        results=results,
    )


if __name__ == "__main__":
    exit_with(main)
