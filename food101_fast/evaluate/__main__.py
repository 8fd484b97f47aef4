"""`python -m food101_fast.evaluate`: measure runs on a split and print tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import orjson
from annotated_types import Ge

from food101_fast.cli import exit_with, parse
from food101_fast.compute.device import Device
from food101_fast.errors import UserError
from food101_fast.evaluate.job import Evaluation, check_same_shards, evaluate, evaluate_ensemble
from food101_fast.evaluate.views import Tta
from food101_fast.fonts import columns, short
from food101_fast.limits import check_limits
from food101_fast.progress import Output, shown
from food101_fast.report import write_report
from food101_fast.runs.metrics import EnsembleMetrics, SplitMetrics
from food101_fast.terminal import show

_PAIRS_SHOWN = 5
_MOST_LISTED = 300  # classes; of more only some are listed
_WORST_LISTED = 50


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """Measure the best checkpoint of a run on one split; write metrics, predictions, plots and a report into it."""

    run: tuple[Path, ...]
    """Folder of the run. With several, each is measured, and then the average of their probabilities."""
    split: Literal["train", "val", "test"] = "test"
    """Split to measure on."""
    shards: str | None = None
    """Folder or URL of the shards, if they moved since the run was trained."""
    overlay: tuple[str, ...] = ()
    """Overlays that the run was trained with, if they moved since."""
    device: Device = "auto"
    """Device to compute on; auto is CUDA if available."""
    batch_size: Annotated[int, Ge(1)] = 256
    """Images in each batch."""
    tta: Tta = "none"
    """Test-time augmentation, whose probabilities are averaged: flip (also mirrored) or crops (center and corners)."""
    calibration: bool = True
    """Whether to fit a temperature on val, for `predict --calibrated`. Evaluating test then predicts val, too, once for
    each training."""
    output: Output = field(default_factory=Output)
    """What the command prints."""

    def __post_init__(self) -> None:
        if not self.run:
            raise UserError("--run needs the folder of a run, or several")
        if len(set(self.run)) < len(self.run):
            raise UserError("--run names a run twice; give each once")
        check_limits(self)


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    settings = parse(EvaluateSettings, "evaluate", argv, groups={"output": ("quiet", "json")})
    check_same_shards(settings.run)
    for run in settings.run:
        with shown(settings.output):
            result = evaluate(
                run,
                split=settings.split,
                shards=settings.shards,
                overlays=settings.overlay,
                device=settings.device,
                batch_size=settings.batch_size,
                tta=settings.tta,
                calibration=settings.calibration,
            )
        report = write_report(run, split=settings.split, shards=settings.shards, overlays=settings.overlay)
        _show(str(run), result, report, json=settings.output.json)
    if len(settings.run) > 1:
        average = evaluate_ensemble(settings.run, split=settings.split)
        report = write_report(settings.run[0], split=settings.split, shards=settings.shards)
        _show(f"average of {len(settings.run)} runs", average, report, json=settings.output.json)


def _show(
    title: str, result: Evaluation[SplitMetrics] | Evaluation[EnsembleMetrics], report: Path, *, json: bool
) -> None:
    """Print the metrics and the files that were written: a table, or a line of JSON with the fields of the metrics."""
    if json:
        files = [str(path) for path in (*result.files, report)]
        print(orjson.dumps({"run": title, "files": files, **asdict(result.metrics)}).decode())
        return
    print(title)
    show(format_table(result.metrics))
    for path in (*result.files, report):
        print(path)


def format_table(metrics: SplitMetrics | EnsembleMetrics) -> str:
    """The metrics as a table for the terminal: the whole split, then each class, or of many the worst ones."""
    low, high = metrics.top1_interval
    tta = metrics.tta if isinstance(metrics, SplitMetrics) else "none"
    top5 = f"top-5 {metrics.top5:.4f}, " if metrics.tells_top5 else ""
    classes, untested = len(metrics.per_class), len(metrics.untested)
    of = f" (mean over {classes - untested:,} of {classes:,} classes)" if untested else ""
    lines = [
        f"{metrics.split}: {metrics.samples:,} images" + (f", test-time augmentation: {tta}" if tta != "none" else ""),
        *([f"  {metrics.protocol}"] if isinstance(metrics, SplitMetrics) and metrics.protocol else []),
        f"  top-1 {metrics.top1:.4f} (95 % interval {low:.4f} to {high:.4f}), {top5}"
        f"macro F1 {metrics.macro_f1:.4f}{of}",
        f"  balanced accuracy {metrics.balanced_accuracy:.4f}, cross-entropy {metrics.loss:.4f}, "
        f"expected calibration error {metrics.calibration.ece:.4f}",
    ]
    if metrics.only_answer is not None:
        lines.append(f"  every image was taken for {metrics.only_answer}: the model has learned no other class")
    if isinstance(metrics, SplitMetrics) and (better := metrics.calibrated) is not None:
        lines.append(
            f"  with temperature {better.temperature:.3f}, fitted on {better.fitted_on}: cross-entropy "
            f"{better.loss:.4f}, expected calibration error {better.ece:.4f}"
        )
    listed = list(metrics.per_class.items())
    if len(listed) > _MOST_LISTED:
        listed = sorted(listed, key=lambda entry: 2.0 if entry[1].f1 is None else entry[1].f1)[:_WORST_LISTED]
        lines.append(
            f"the {_WORST_LISTED} classes with the lowest F1 of {len(metrics.per_class):,}; all are in the metrics file"
        )
    width = max(columns(short(name)) for name in [*dict(listed), "class"])
    lines.append(f"{'class':<{width}}  {'images':>7}  {'precision':>9}  {'recall':>7}  {'F1':>7}")
    for name, entry in listed:
        cells = ("-" if value is None else f"{value:.4f}" for value in (entry.precision, entry.recall, entry.f1))
        precision, recall, f1 = cells
        cut = short(name)
        padded = cut + " " * (width - columns(cut))
        lines.append(f"{padded}  {entry.support:>7,}  {precision:>9}  {recall:>7}  {f1:>7}")
    lines += [
        f"{short(pair.true)} taken for {short(pair.predicted)}: {pair.count:,} ({pair.share:.0%} of its images)"
        for pair in metrics.confused[:_PAIRS_SHOWN]
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    exit_with(main)
