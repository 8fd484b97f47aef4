"""`python -m food101_fast.evaluate`: measure a run and print a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from food101_fast.cli import exit_with, parse
from food101_fast.errors import UserError
from food101_fast.evaluate.job import evaluate
from food101_fast.train.loop import Device


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """Measure the best checkpoint of a run on one split; write metrics, predictions and plots into the run."""

    run: Path
    """Folder of the run."""
    split: Literal["train", "val", "test"] = "test"
    """Which images."""
    shards: str | None = None
    """Folder of shards or its URL, if it is no longer where the run was trained from."""
    device: Device = "auto"
    """Where to compute; auto is CUDA where there is one."""
    batch_size: int = 256
    """Images at a time."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"--batch-size {self.batch_size} should be at least 1")


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    settings = parse(EvaluateSettings, "evaluate", argv)
    result = evaluate(
        settings.run,
        split=settings.split,
        shards=settings.shards,
        device=settings.device,
        batch_size=settings.batch_size,
    )
    print(format_table(result.metrics))
    for path in result.files:
        print(path)


def format_table(metrics: dict[str, Any]) -> str:
    """The metrics as a table for the terminal: the whole split, then each class."""
    width = max(len(name) for name in [*metrics["per_class"], "cross-entropy"])
    lines = [f"{metrics['split']:<{width}}  {'images':>7}  {'accuracy':>8}"]
    for name, value in (
        ("top-1", metrics["top1"]),
        ("top-5", metrics["top5"]),
        ("cross-entropy", metrics["loss"]),
    ):
        lines.append(f"{name:<{width}}  {metrics['samples']:>7,}  {value:>8.4f}")
    lines.append("-" * (width + 19))
    for name, entry in metrics["per_class"].items():
        accuracy = "-" if entry["accuracy"] is None else f"{entry['accuracy']:.4f}"
        lines.append(f"{name:<{width}}  {entry['samples']:>7,}  {accuracy:>8}")
    return "\n".join(lines)


if __name__ == "__main__":
    exit_with(main)
