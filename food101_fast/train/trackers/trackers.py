"""All trackers of a run: which there are, what is logged to them, and when."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from food101_fast.errors import UserError
from food101_fast.progress import warn
from food101_fast.resources import first_line
from food101_fast.runs.folder import RunFolder
from food101_fast.runs.results import EpochRow, best_epoch, totals
from food101_fast.runs.run import Run
from food101_fast.storage import write_atomically
from food101_fast.train.options import RunOptions, Track
from food101_fast.train.trackers import mlflow, tensorboard, wandb
from food101_fast.train.trackers.tracker import Ended, TrackedRun, Tracker, facts_of
from food101_fast.train.trackers.worker import Call, Worker

# How long a tracker may take to send the rest when the training has ended. Schedulers kill a stopped job after 30 s.
_SECONDS: dict[Ended, float] = {"finished": 60.0, "stopped": 10.0, "failed": 10.0}
_SECONDS_OF_UPLOAD = 600.0  # with checkpoints


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A tracker that `--track` knows."""

    module: str
    """That must be importable; the extra of the tracker's name installs it."""
    start: Callable[[TrackedRun], Tracker]
    """Makes the tracker, in its thread."""
    before_import: Callable[[], None] = lambda: None
    """Is called before the module is imported."""
    before_start: Callable[[], None] = lambda: None
    """Is called in the main thread, which may ask the user."""


KINDS: dict[Track, Kind] = {
    "tensorboard": Kind(module="torch.utils.tensorboard", start=tensorboard.TensorBoard),
    "wandb": Kind(
        module="wandb", start=wandb.WeightsAndBiases, before_import=wandb.be_silent, before_start=wandb.log_in
    ),
    "mlflow": Kind(module="mlflow", start=mlflow.MLflow, before_import=mlflow.be_silent),
}


def require_extras(options: RunOptions) -> None:
    """Refuse to start a run without the extras that its trackers need.

    Raises:
        UserError: one is not installed.
    """
    for name in options.trackers:
        kind = KINDS[name]
        kind.before_import()
        try:
            importlib.import_module(kind.module)
        except ImportError as error:
            flag = f"--track {name}" if name in options.track else f"--{name}"
            raise UserError(f"{flag} needs the extra: pip install 'food101-fast[{name}]', or leave it out") from error


class Trackers:
    """The trackers of a run, on its main rank; none on the others. A context that closes them.

    Args:
        folder: of the run.
        run: description of the run, with the recipe that is trained; None on other ranks, which log nothing.
        options: which trackers.
        step: finished steps.
        resumed: whether the run was started earlier.

    Attributes:
        ended: how the training process ended, if without an error.
    """

    def __init__(self, folder: Path, run: Run | None, options: RunOptions, *, step: int, resumed: bool) -> None:
        self.ended: Ended = "stopped"
        self._folder, self._run = folder, run
        self._checkpoints = options.track_checkpoints
        self._workers: list[Worker] = []
        if run is None:
            return
        tracked = TrackedRun(
            folder=folder,
            facts=facts_of(run),
            step=step,
            resumed=resumed,
            seconds=self._seconds("finished"),
        )
        for name in options.trackers:
            self._workers.append(_worker(name, tracked))

    def metrics(self, step: int, numbers: Mapping[str, float | None]) -> None:
        """Log numbers by their names after so many finished steps; those that are None are left out."""
        known = {name: float(number) for name, number in numbers.items() if number is not None}
        self._do(lambda tracker: tracker.metrics(step, known))

    def finish(self, rows: Sequence[EpochRow]) -> None:
        """Log what a complete run reached, its report, and its best checkpoint if that is wanted.

        Args:
            rows: of all epochs, at least one.
        """
        self.ended = "finished"
        if self._run is None or not self._workers:
            return
        reached = _totals(rows)
        self._do(lambda tracker: tracker.totals(rows[-1].step, reached))
        try:
            page, pictures = _written(self._folder, self._run, rows)
        except Exception as error:  # what is shown must not fail what is trained
            warn(f"the report could not be logged ({first_line(error)}); `report` writes it again")
        else:
            self._do(lambda tracker: tracker.report(page, pictures))
        if self._checkpoints:
            best = RunFolder(self._folder).checkpoint("best")
            self._do(lambda tracker: tracker.artifact("best", best))

    def _do(self, call: Call) -> None:
        for worker in self._workers:
            worker.do(call)

    def _seconds(self, ended: Ended) -> float:
        return _SECONDS_OF_UPLOAD if self._checkpoints and ended == "finished" else _SECONDS[ended]

    def __enter__(self) -> Trackers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ended: Ended = self.ended if error is None else "failed"
        end = time.monotonic() + self._seconds(ended)
        for worker in self._workers:
            worker.close(ended)
        for worker in self._workers:
            worker.wait(end - time.monotonic())


def _worker(name: Track, tracked: TrackedRun) -> Worker:
    """The thread of a tracker. What the user must be asked, is asked before it starts."""
    kind = KINDS[name]
    try:
        kind.before_start()
    except Exception as error:  # said where all of its errors are said
        failed = error

        def start() -> Tracker:
            raise failed

        return Worker(name, start)
    return Worker(name, lambda: kind.start(tracked))


def _written(folder: Path, run: Run, rows: Sequence[EpochRow]) -> tuple[Path, list[Path]]:
    """Write the report and the pictures of a complete run, those that need no evaluation."""
    # Here, since they take a second to import.
    from food101_fast.evaluate.job import run_curves
    from food101_fast.plots import plot_class_counts, png
    from food101_fast.report import write_report

    files = RunFolder(folder)
    pictures = {
        files.curves: png(run_curves(rows, len(run.classes), run.recipe.loss_name)),
        files.class_counts: png(plot_class_counts(run.class_counts, run.classes)),
    }
    for path, content in pictures.items():
        write_atomically(path, content)
    return write_report(folder), list(pictures)


def _totals(rows: Sequence[EpochRow]) -> dict[str, float]:
    """What a run reached, by the names that trackers show."""
    best, total = best_epoch(rows), totals(rows)
    return {
        "best/epoch": best.epoch,
        "best/loss": best.val_loss,
        "best/top1": best.val_top1,
        "best/top5": best.val_top5,
        "total/seconds": total.whole_seconds,
        "total/images": total.images,
        "total/images_per_second": total.images_per_second,
        "total/wait_share": total.wait_share,
        "total/peak_memory_bytes": total.peak_memory_bytes,
    }
