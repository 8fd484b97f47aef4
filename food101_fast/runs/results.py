"""What a run reached: a row for each finished epoch, as in `metrics.jsonl`, and totals over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from food101_fast.documents import parse
from food101_fast.loader.pipeline import Counters
from food101_fast.runs.folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Where the time of an epoch went. Rates are those of all ranks together."""

    seconds: float
    """Training steps, without compilation and validation."""
    images: int
    """Images that all ranks trained on."""
    images_per_second: float
    """During the training steps."""
    compute_images_per_second: float
    """The same without the time that the main rank waited for data."""
    wait_share: float
    """Share of `seconds` in which the main rank waited for data, between 0 and 1."""
    compile_seconds: float
    """Time of compilation, of the training step and of validation."""
    loader: Counters
    """What the main rank's loader did."""
    validation_seconds: float = 0.0
    """Validation, without compilation; 0 before the epoch is validated."""
    peak_memory_bytes: int = 0
    """Largest memory in use until the end of validation, on the GPU or of the process; 0 before."""


@dataclass(frozen=True, kw_only=True)
class EpochRow:
    """A finished epoch: a line of `metrics.jsonl`.

    Top-1 and top-5 are between 0 and 1.
    """

    epoch: int
    """Counted from 1."""
    step: int
    """Finished steps of the whole run."""
    image_size: int
    """Height and width of the training images, in pixels."""
    learning_rate: float
    """Of the head, in the last step."""
    train_loss: float
    """Mean over the augmented images of what training minimizes, in nats, while the weights changed: the recipe's
    `loss`, with its label smoothing, mixed labels, class weights, adjusted logits and teacher. It is a plain
    cross-entropy only where the recipe has none of these."""
    train_top1: float
    """Over the same images, by plain logits, also where the loss adjusts them. Of mixed labels the one with the largest
    share counts."""
    skipped_steps: int
    """Steps whose gradients were not finite."""
    val_loss: float
    """Mean cross-entropy in nats of plain logits and labels, whatever the recipe's loss is."""
    val_top1: float
    val_top5: float
    timing: Timing


def read_metrics(folder: Path) -> list[EpochRow]:
    """The lines of `metrics.jsonl`, one row per epoch; empty if there is no such file yet.

    Raises:
        UserError: a line is damaged.
    """
    path = RunFolder(folder).epochs
    if not path.is_file():
        return []
    advice = "remove this line and those after it, or train the run again"
    return [
        parse(line, EpochRow, where=f"{path}, line {number},", advice=advice)
        for number, line in enumerate(path.read_bytes().splitlines(), 1)
    ]


def best_epoch(rows: Sequence[EpochRow]) -> EpochRow:
    """The epoch with the highest validation top-1, the first of equals.

    Args:
        rows: at least one.
    """
    return max(rows, key=lambda row: row.val_top1)


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Sums over the epochs of a run."""

    seconds: float
    """Training steps, without compilation and validation."""
    waiting_seconds: float
    """Waiting for data, within `seconds`."""
    compile_seconds: float
    validation_seconds: float
    images: int
    """Images trained on, each as often as it was seen."""
    peak_memory_bytes: int
    """The largest of all epochs."""

    @property
    def whole_seconds(self) -> float:
        """Training, compilation and validation."""
        return self.seconds + self.compile_seconds + self.validation_seconds

    @property
    def images_per_second(self) -> float:
        """During the training steps."""
        return self.images / self.seconds

    @property
    def wait_share(self) -> float:
        """Share of the training steps' time in which the run waited for data, between 0 and 1."""
        return self.waiting_seconds / self.seconds


def totals(rows: Sequence[EpochRow]) -> Totals:
    """Sums over the epochs of a run.

    Args:
        rows: at least one.
    """
    timings = [row.timing for row in rows]
    return Totals(
        seconds=sum(timing.seconds for timing in timings),
        waiting_seconds=sum(timing.seconds * timing.wait_share for timing in timings),
        compile_seconds=sum(timing.compile_seconds for timing in timings),
        validation_seconds=sum(timing.validation_seconds for timing in timings),
        images=sum(timing.images for timing in timings),
        peak_memory_bytes=max(timing.peak_memory_bytes for timing in timings),
    )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a run: the line of JSON that `train --json` prints."""

    run: str
    """Folder of the run."""
    stopped_by: str | None
    """Name of the signal that stopped it; None if it ended by itself."""
    steps: int
    """Finished steps."""
    epochs: int
    """Finished epochs; without one the next two are None."""
    best: EpochRow | None
    """The epoch with the highest validation top-1."""
    totals: Totals | None
    """Sums over all epochs."""
    report: str | None
    """The run's page; None if a signal stopped the run."""


def outcome(rows: Sequence[EpochRow], *, run: Path, steps: int, stopped_by: str | None, report: Path | None) -> Outcome:
    """What came of a run.

    Args:
        rows: of the finished epochs; may be empty.
        run: folder of the run.
        steps: finished steps.
        stopped_by: name of the signal that stopped it.
        report: the run's page.
    """
    return Outcome(
        run=str(run),
        stopped_by=stopped_by,
        steps=steps,
        epochs=len(rows),
        best=best_epoch(rows) if rows else None,
        totals=totals(rows) if rows else None,
        report=None if report is None else str(report),
    )


def results(rows: Sequence[EpochRow]) -> dict[str, str]:
    """A run's results as texts for people, by their names.

    Args:
        rows: at least one.
    """
    best, total = best_epoch(rows), totals(rows)
    without_waiting = total.images / max(total.seconds - total.waiting_seconds, 1e-9)
    return {
        "best epoch": f"{best.epoch} of {len(rows)}",
        "validation top-1": f"{best.val_top1:.4f}",
        "validation top-5": f"{best.val_top5:.4f}",
        "images per second": f"{total.images_per_second:,.0f} ({without_waiting:,.0f} without waiting)",
        "waiting for data": f"{total.wait_share:.1%}",
        "peak memory": f"{total.peak_memory_bytes / 1e9:.2f} GB",
        "time": f"{total.whole_seconds:,.1f} s (training {total.seconds:,.1f}, "
        f"validation {total.validation_seconds:,.1f}, compiling {total.compile_seconds:,.1f})",
    }
