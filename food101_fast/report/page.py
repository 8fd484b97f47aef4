"""The pages: one run as a whole, and several runs side by side."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from scipy.stats import binomtest

from food101_fast.errors import UserError
from food101_fast.report.charts import line_chart, reliability_chart
from food101_fast.report.findings import Findings, Predictions, read_findings
from food101_fast.report.matrix import matrix
from food101_fast.report.pictures import thumbnail
from food101_fast.runs.folder import RunFolder
from food101_fast.runs.results import EpochRow, best_epoch, results, totals
from food101_fast.storage import write_atomically, writing

_PAIRS = 10
_PICTURES_PER_PAIR = 4
_MISTAKES = 24
_FEW_CLASSES = 20  # up to which long lists stand open

# What a comparison says of each run: its title, where it is, how it is written, and whether more is better (None where
# neither is, or where the difference says more about the machine's other work).
_COMPARED: tuple[tuple[str, str, str, bool | None], ...] = (
    ("test-time augmentation", "tta", "{}", None),
    ("top-1", "top1", "{:.2%}", True),
    ("top-5", "top5", "{:.2%}", True),
    ("macro F1", "macro_f1", "{:.4f}", True),
    ("cross-entropy", "loss", "{:.4f}", False),
    ("expected calibration error", "ece", "{:.4f}", False),
    ("best validation top-1", "val_top1", "{:.2%}", True),
    ("best epoch", "best_epoch", "{:,}", None),
    ("epochs", "epochs", "{:,}", None),
    ("images per second", "images_per_second", "{:,.0f}", None),
    ("waiting for data", "wait_share", "{:.1%}", None),
    ("seconds of training", "seconds", "{:,.1f}", None),
)


def write_report(folder: Path, *, split: str = "test", shards: str | None = None) -> Path:
    """Write `report.html` into a run's folder; for a split other than test its name begins with it.

    It is one file that needs no network: summary, curves, throughput, class counts, and, if the split was evaluated
    since the run was trained, confusion matrix, classes, mistakes with their pictures, calibration and averages with
    other runs. Pictures need the shards; without them the page says so.

    Args:
        folder: of the run.
        split: whose evaluation is shown.
        shards: folder or URL of the shards, if they moved since the run was trained.

    Raises:
        UserError: there is no run with a finished epoch; `shards` are given and can't be opened or are others; or the
            page can't be written.
    """
    found = read_findings(folder, split, shards)
    return _write(RunFolder(folder).report(split), _render("report.html.jinja", **_report(found)))


def write_comparison(folders: Sequence[Path], out: Path, *, split: str = "test") -> Path:
    """Write a page that puts runs side by side: metrics, curves, recipes and classes.

    Runs that were evaluated on the same samples are compared with the first one by McNemar's exact test.

    Args:
        folders: of the runs, two or more, each once.
        out: file to write.
        split: whose evaluations are compared.

    Raises:
        UserError: they are not two or more, one is no run with a finished epoch, or the page can't be written.
    """
    if len(folders) < 2 or len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError("--compare needs the folders of two runs or more, each once")
    found = [read_findings(folder, split) for folder in folders]
    return _write(out, _render("comparison.html.jinja", **_comparison(found)))


def _write(path: Path, page: str) -> Path:
    with writing(path):
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, page.encode())
    return path


def _render(template: str, **content: Any) -> str:
    environment = Environment(
        loader=PackageLoader("food101_fast.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["words"] = lambda name: name.replace("_", " ")
    here = Path(__file__).parent
    for name in ("style.css", "script.js"):
        content[name.partition(".")[0]] = Markup((here / name).read_text())
    return environment.get_template(template).render(**content)


def _report(found: Findings) -> dict[str, Any]:
    metrics, predictions = found.metrics, found.predictions
    return {
        "found": found,
        "run": found.run,
        "metrics": metrics,
        "best": best_epoch(found.epochs),
        "training": results(found.epochs),
        "curves": _curves(found.epochs),
        "balance": _balance(found),
        "few": len(found.run.classes) <= _FEW_CLASSES,
        "matrix": None if predictions is None else matrix(predictions.counts, found.run.classes),
        "classes": None if metrics is None or predictions is None else _classes(found, metrics, predictions),
        "pairs": None if metrics is None or predictions is None else _pairs(found, metrics, predictions),
        "mistakes": None if predictions is None else _mistakes(found, predictions),
        "reliability": None if metrics is None else reliability_chart(metrics["calibration"]),
        "recipe": asdict(found.run.recipe),
    }


def _curves(rows: Sequence[EpochRow]) -> list[Markup]:
    epochs, timings = [row.epoch for row in rows], [row.timing for row in rows]
    measured = [timing.images_per_second for timing in timings]
    without_waiting = [timing.compute_images_per_second for timing in timings]
    return [
        line_chart(
            epochs,
            {"training": [row.train_loss for row in rows], "validation": [row.val_loss for row in rows]},
            "cross-entropy",
        ),
        line_chart(
            epochs,
            {
                "training": [row.train_top1 for row in rows],
                "validation": [row.val_top1 for row in rows],
                "validation top-5": [row.val_top5 for row in rows],
            },
            "top-1 accuracy",
            share=True,
            top=1.02,
        ),
        line_chart(
            epochs,
            {"measured": measured, "without waiting": without_waiting},
            "images per second",
            top=1.1 * max(without_waiting),
        ),
        line_chart(
            epochs,
            {"waiting": [timing.wait_share for timing in timings]},
            "time waiting for data",
            share=True,
            top=_waiting_top(rows),
        ),
    ]


def _waiting_top(rows: Sequence[EpochRow]) -> float:
    """Upper end of the vertical axis: at least 10 %, so that a very small share does not look large."""
    return max(0.1, 1.1 * max(row.timing.wait_share for row in rows))


def _balance(found: Findings) -> dict[str, Any]:
    """Images of each class in each split, as widths in per cent of the largest class."""
    splits = list(found.run.class_counts)
    counts = np.array([found.run.class_counts[split] for split in splits])
    totals = counts.sum(axis=0)
    largest = max(int(totals.max()), 1)
    names = found.run.classes
    return {
        "splits": [(split, int(of_split.sum())) for split, of_split in zip(splits, counts, strict=True)],
        "classes": [
            (name, [(int(count), 100 * int(count) / largest) for count in of_class])
            for name, of_class in zip(names, counts.T, strict=True)
        ],
        "smallest": (names[int(totals.argmin())], int(totals.min())),
        "largest": (names[int(totals.argmax())], int(totals.max())),
    }


def _classes(found: Findings, metrics: dict[str, Any], predictions: Predictions) -> list[dict[str, Any]]:
    mistakes = predictions.counts - np.diag(np.diag(predictions.counts))
    rows = []
    for label, (name, entry) in enumerate(metrics["per_class"].items()):
        other = int(mistakes[label].argmax())
        often = int(mistakes[label, other])
        rows.append({"name": name, **entry, "other": found.run.classes[other] if often else None, "often": often})
    return rows


def _picture(found: Findings, sample: int) -> str | None:
    return None if found.shards is None else thumbnail(found.shards.split(found.split)[sample])


def _pairs(found: Findings, metrics: dict[str, Any], predictions: Predictions) -> list[dict[str, Any]]:
    number = {name: label for label, name in enumerate(found.run.classes)}
    pairs = []
    for pair in metrics["confused"][:_PAIRS]:
        places = predictions.mistakes(number[pair["true"]], number[pair["predicted"]])[:_PICTURES_PER_PAIR]
        pairs.append({**pair, "examples": [_example(found, predictions, place) for place in places]})
    return pairs


def _mistakes(found: Findings, predictions: Predictions) -> list[dict[str, Any]]:
    return [_example(found, predictions, place) for place in predictions.mistakes()[:_MISTAKES]]


def _example(found: Findings, predictions: Predictions, place: int) -> dict[str, Any]:
    true, predicted = int(predictions.labels[place]), int(predictions.predicted[place])
    sample = int(predictions.ids[place])
    return {
        "sample": sample,
        "true": found.run.classes[true],
        "predicted": found.run.classes[predicted],
        "probability": float(predictions.probabilities[place, predicted]),
        "of_true": float(predictions.probabilities[place, true]),
        "picture": _picture(found, sample),
    }


def _comparison(found: Sequence[Findings]) -> dict[str, Any]:
    names = _distinct_names([one.folder for one in found])
    numbers = [_numbers(one) for one in found]
    rows = []
    for title, key, form, more in _COMPARED:
        values = [of_run.get(key) for of_run in numbers]
        known = [value for value in values if value is not None]
        best = (max if more else min)(known) if more is not None and len(set(known)) > 1 else None
        cells = [("-", False) if value is None else (form.format(value), value == best) for value in values]
        rows.append((title, cells))
    recipes = [asdict(one.run.recipe) for one in found]
    differing = [key for key in recipes[0] if len({str(recipe[key]) for recipe in recipes}) > 1]
    return {
        "found": found,
        "names": names,
        "rows": rows,
        "tests": [_mcnemar(names[0], found[0], name, one) for name, one in zip(names[1:], found[1:], strict=True)],
        "same_data": len({one.run.data for one in found}) == 1,
        "differences": [(key, [recipe[key] for recipe in recipes]) for key in differing],
        "curves": _compared_curves(names, found),
        "classes": _compared_classes(found),
        "split": found[0].split,
    }


def _distinct_names(folders: Sequence[Path]) -> list[str]:
    """The folders' names, with those of the folders above them where they would be the same."""
    paths = [folder.resolve() for folder in folders]
    depth = next(depth for depth in itertools.count(1) if len({path.parts[-depth:] for path in paths}) == len(paths))
    return ["/".join(path.parts[-depth:]) for path in paths]


def _numbers(found: Findings) -> dict[str, Any]:
    best, total = best_epoch(found.epochs), totals(found.epochs)
    metrics = found.metrics or {}
    return {
        **{key: metrics.get(key) for key in ("tta", "top1", "top5", "macro_f1", "loss")},
        "ece": metrics["calibration"]["ece"] if metrics else None,
        "val_top1": best.val_top1,
        "best_epoch": best.epoch,
        "epochs": len(found.epochs),
        "images_per_second": total.images_per_second,
        "wait_share": total.wait_share,
        "seconds": total.seconds,
    }


def _mcnemar(first_name: str, first: Findings, name: str, other: Findings) -> dict[str, Any] | None:
    """Whether two runs differ in which samples they get right; None where they can't be compared.

    Source: McNemar, Psychometrika 12 (1947), in its exact form: under no difference the samples that only one gets
    right fall to each of them with probability one half.
    """
    one, two = first.predictions, other.predictions
    if one is None or two is None or first.run.data != other.run.data:
        return None
    right, right_too = one.predicted == one.labels, two.predicted == two.labels
    only_first, only_other = int((right & ~right_too).sum()), int((~right & right_too).sum())
    discordant = only_first + only_other
    return {
        "names": (first_name, name),
        "only": (only_first, only_other),
        "p": float(binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0,
        "samples": len(right),
    }


def _compared_curves(names: Sequence[str], found: Sequence[Findings]) -> list[Markup]:
    longest = max((one.epochs for one in found), key=len)
    epochs = [row.epoch for row in longest]

    def chart(
        value: Callable[[EpochRow], float], label: str, *, share: bool = False, top: float | None = None
    ) -> Markup:
        series = {name: [value(row) for row in one.epochs] for name, one in zip(names, found, strict=True)}
        return line_chart(epochs, series, label, share=share, top=top)

    fastest = max(row.timing.images_per_second for one in found for row in one.epochs)
    waiting_top = max(_waiting_top(one.epochs) for one in found)
    return [
        chart(lambda row: row.val_loss, "validation cross-entropy"),
        chart(lambda row: row.val_top1, "validation top-1", share=True, top=1.02),
        chart(lambda row: row.timing.images_per_second, "images per second", top=1.1 * fastest),
        chart(lambda row: row.timing.wait_share, "time waiting for data", share=True, top=waiting_top),
    ]


def _compared_classes(found: Sequence[Findings]) -> list[tuple[str, list[float | None], float | None]] | None:
    """Name, F1 in each run, and how much the last one is above the first; None if their classes are not the same."""
    if any(one.metrics is None for one in found) or len({one.run.classes for one in found}) > 1:
        return None
    tables = [one.metrics["per_class"] for one in found if one.metrics is not None]
    rows = []
    for name in found[0].run.classes:
        values: list[float | None] = [table[name]["f1"] for table in tables]
        first, last = values[0], values[-1]
        rows.append((name, values, None if first is None or last is None else last - first))
    return rows
