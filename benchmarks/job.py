"""The notebook's whole job as a user starts it: seconds from the command to the last checkpoint.

    python benchmarks/job.py --shards DIR --work DIR [--device cuda] [--variants default cuda-graph] [--rows FILE]

Runs `train --recipe baseline --weights none --patience None` as a command of its own; imports, compilation, validation
and checkpoints are in the time. A row is kept for every epoch as soon as it is in the run's log.
What other variants change: `search` lets cuDNN search for algorithms, `compiled` has no CUDA graph, `cuda-graph`
compiles nothing, `compiled-graph` has both, `eager` neither.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson
from published import Measurement

from food101_fast.cli import USER_ERROR_CODE, exit_with, parse
from food101_fast.errors import UserError
from food101_fast.shards import ShardSet

VARIANTS: dict[str, list[str]] = {
    "default": [],
    "search": ["--cudnn-benchmark", "True"],
    "compiled": ["--compile", "on", "--cuda-graph", "off"],
    "cuda-graph": ["--cuda-graph", "on", "--compile", "off"],
    "compiled-graph": ["--cuda-graph", "on", "--compile", "on"],
    "eager": ["--compile", "off", "--cuda-graph", "off"],
}
"""By name, further flags of `train`."""

_LOOK_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The notebook's job, timed from the command to the last checkpoint."""

    shards: Path
    """Folder of shards."""
    work: Path
    """Folder for the runs; an existing run is not resumed."""
    variants: tuple[str, ...] = ("default",)
    """Which, one after the other: default, search, compiled, cuda-graph, compiled-graph, eager."""
    device: Literal["cpu", "cuda"] = "cuda"
    """Where to train."""
    model: str = "mobilenet_v2"
    """Model, with random weights."""
    image_size: int = 160
    """Height and width that it sees, in pixels."""
    batch_size: int = 128
    """Images in one step."""
    epochs: int = 7
    """Times that every training image is seen."""
    rows: Path | None = None
    """File to append each row to as it is measured."""
    json: Path | None = None
    """File to write the results to."""
    part: str = "job"
    """What the rows are marked with."""


def command(settings: Settings, variant: str, run: Path) -> list[str]:
    """What a user types."""
    flags = {
        "--shards": settings.shards,
        "--run": run,
        "--device": settings.device,
        "--recipe": "baseline",
        "--weights": "none",
        "--patience": None,
        "--model": settings.model,
        "--image-size": settings.image_size,
        "--batch-size": settings.batch_size,
        "--epochs": settings.epochs,
    }
    words = [str(word) for flag in flags.items() for word in flag]
    return [sys.executable, "-m", "food101_fast.train", *words, *VARIANTS[variant]]


def epochs(process: subprocess.Popen[bytes], log: Path) -> Iterator[dict[str, Any]]:
    """The lines of a run's log, each when it appears, until its process has ended."""
    seen = 0
    while True:
        ended = process.poll() is not None
        lines = log.read_bytes().split(b"\n")[:-1] if log.exists() else []
        for line in lines[seen:]:
            yield orjson.loads(line)
        seen = max(seen, len(lines))
        if ended:
            return
        time.sleep(_LOOK_SECONDS)


def last_words(log: Path) -> str:
    """The error that a command ended with, or else the last line that it wrote."""
    framed = (line.strip(" │╭╰╮╯─") for line in log.read_text(errors="replace").splitlines())
    lines = [line for line in framed if line] or ["it said nothing"]
    return next((line for line in lines if line.startswith("error:")), lines[-1])


def measured(variant: str, settings: Settings, measurement: Measurement) -> dict[str, Any] | None:
    """Run a variant; None if `train` refuses it.

    Raises:
        UserError: it fails, or the default is refused.
    """
    run, said = settings.work / f"run-{variant}", settings.work / f"run-{variant}.log"
    begun = time.time()
    with said.open("wb") as log:
        process = subprocess.Popen(command(settings, variant, run), stdout=log, stderr=subprocess.STDOUT)
    done = []
    for row in epochs(process, run / "metrics.jsonl"):
        done.append(row)
        seconds = time.time() - begun
        about = {name: row[name] for name in ("train_loss", "val_top1", "skipped_steps", "timing") if name in row}
        measurement.rows.value(f"{variant}, epoch {row['epoch']} done", seconds, "s from the command", **about)
        print(f"{variant}, epoch {row['epoch']}: {seconds:.1f} s, top-1 {row['val_top1']:.3f}", flush=True)
    if process.wait():
        reason = f"train ended with code {process.returncode}: {last_words(said)}"
        measurement.rows.missing(variant, reason)
        if process.returncode != USER_ERROR_CODE or variant == "default":
            raise UserError(f"{variant}: {reason}")
        print(f"{variant}: {reason}", flush=True)
        return None
    images = len(ShardSet.open(settings.shards).split("train")) * settings.epochs
    last = max(path.stat().st_mtime for path in (run / "checkpoints" / "last").iterdir()) - begun
    whole = time.time() - begun
    totals = {"seconds_with_report": whole, "images_per_second": images / last, "images": images}
    measurement.rows.value(f"{variant}, last checkpoint", last, "s from the command", **totals)
    print(f"{variant}: last checkpoint after {last:.1f} s, {images / last:,.0f} images/s", flush=True)
    return {"seconds": last, **totals, "epochs": done}


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    settings = parse(Settings, "benchmarks/job", argv)
    if unknown := set(settings.variants) - set(VARIANTS):
        raise UserError(f"--variants {' '.join(sorted(unknown))}: choose from {', '.join(VARIANTS)}")
    settings.work.mkdir(parents=True, exist_ok=True)
    measurement = Measurement(
        settings.json, settings.device, rows=settings.rows, part=settings.part, settings=vars(settings)
    )
    results = {variant: measured(variant, settings, measurement) for variant in settings.variants}
    kept = {name: value for name, value in vars(settings).items() if not isinstance(value, Path)}
    measurement.publish(kept, variants=results)


if __name__ == "__main__":
    exit_with(main)
