"""Logs of a run: metrics.jsonl and metrics.csv, and the texts for the terminal."""

from __future__ import annotations

import csv
import io
import resource
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import orjson
import torch

from food101_fast.runs.folder import RunFolder
from food101_fast.runs.results import EpochRow, read_metrics, results
from food101_fast.storage import write_atomically, writing


class MetricsLog:
    """`metrics.jsonl` and `metrics.csv`, a line per epoch, written as a whole each time.

    Args:
        folder: of the run.
        epochs: finished epochs; later lines are from before an interruption and are dropped.
    """

    def __init__(self, folder: Path, epochs: int) -> None:
        self._folder = folder
        self.rows: list[EpochRow] = read_metrics(folder)[:epochs]

    def append(self, row: EpochRow) -> None:
        """Add an epoch.

        Raises:
            UserError: it could not be written.
        """
        self.rows.append(row)
        lines = b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in self.rows)
        files = RunFolder(self._folder)
        with writing(files.epochs, "then go on with --resume"):
            write_atomically(files.epochs, lines)
            write_atomically(files.epochs_table, _as_csv(self.rows))


def _as_csv(rows: Sequence[EpochRow]) -> bytes:
    """The numbers of each row in columns; nested ones are named with a dot."""
    flat = []
    for row in map(asdict, rows):
        timing = row.pop("timing")
        nested = {f"timing.{key}": value for key, value in timing.items() if not isinstance(value, dict)}
        flat.append(row | nested)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue().encode()


def peak_memory(device: torch.device) -> int:
    """Largest memory in use so far, in bytes: of the CUDA device, or on the CPU of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def summary(rows: Sequence[EpochRow]) -> str:
    """A table of a run's results for the terminal."""
    return "\n".join(f"  {name:<20}{value}" for name, value in results(rows).items())


def epoch_line(row: EpochRow, epochs: int, *, improved: bool) -> str:
    """An epoch's results for the terminal."""
    timing, downloaded_bytes = row.timing, row.timing.loader.downloaded_bytes
    skipped = f", {row.skipped_steps} steps skipped" if row.skipped_steps else ""
    waiting = f", waiting {timing.wait_share:.0%}" if timing.wait_share >= 0.01 else ""
    downloaded = f", {downloaded_bytes / 1e9:.2f} GB downloaded" if downloaded_bytes else ""
    return (
        f"epoch {row.epoch}/{epochs}: val loss {row.val_loss:.3f}, top-1 {row.val_top1:.4f}, top-5 {row.val_top5:.4f}"
        f"{' (best)' if improved else ''}; {timing.images_per_second:,.0f} images/s{waiting}{downloaded}{skipped}"
    )
