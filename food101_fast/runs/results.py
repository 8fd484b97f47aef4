"""What a run has reached: a row for each finished epoch, and what follows from all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from food101_fast.errors import UserError
from food101_fast.runs.folder import RunFolder

Row = dict[str, Any]
"""An epoch: `epoch`, `step`, losses and accuracies, `learning_rate`, `timing` and so on, as in `metrics.jsonl`."""


def read_metrics(folder: Path) -> list[Row]:
    """The lines of `metrics.jsonl`, one dict per epoch; empty where there is none yet.

    Raises:
        UserError: one of them is damaged.
    """
    path = RunFolder(folder).epochs
    try:
        return [orjson.loads(line) for line in path.read_bytes().splitlines()] if path.is_file() else []
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); remove the lines that are no JSON") from error


def results(rows: Sequence[Row]) -> dict[str, str]:
    """A run's results as texts by their names.

    Args:
        rows: of `metrics.jsonl`, at least one.
    """
    best = max(rows, key=lambda row: row["val_top1"])
    timings = [row["timing"] for row in rows]
    seconds = sum(timing["seconds"] for timing in timings)
    waited = sum(timing["seconds"] * timing["wait_share"] for timing in timings)
    images = sum(timing["images"] for timing in timings)
    compiling = sum(timing["compile_seconds"] for timing in timings)
    validation = sum(timing["validation_seconds"] for timing in timings)
    return {
        "best epoch": f"{best['epoch']} of {len(rows)}",
        "validation top-1": f"{best['val_top1']:.4f}",
        "validation top-5": f"{best['val_top5']:.4f}",
        "images per second": f"{images / seconds:,.0f} ({images / max(seconds - waited, 1e-9):,.0f} without waiting)",
        "waiting for data": f"{waited / seconds:.1%}",
        "peak memory": f"{max(timing['peak_memory_bytes'] for timing in timings) / 1e9:.2f} GB",
        "time": f"{seconds + compiling + validation:,.1f} s (training {seconds:,.1f}, validation {validation:,.1f}, "
        f"compiling {compiling:,.1f})",
    }
