"""The tables of accuracy on real photographs with the official split: recipes, single changes, the notebook's way."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from figures import RESULTS, result, table, whole

_MISSING = "Not measured yet."
_BASELINE = "baseline"
_GAINED = ("val_top1", "test_top1")


def _is_there(name: str) -> bool:
    return (RESULTS / f"{name}.json").exists()


def _percent(summary: dict[str, Any], *, signed: bool = False) -> str:
    """A mean and its standard error, in percent."""
    error = summary["standard_error"]
    mean = f"{100 * summary['mean']:+.1f}" if signed else f"{100 * summary['mean']:.1f}"
    return mean if error is None else f"{mean} ± {100 * error:.1f}"


def _conditions(name: str) -> str:
    """What a measurement was made on."""
    if not _is_there(name):
        return _MISSING
    found = result(name)
    samples, settings = found["samples"], found["settings"]
    images = ", ".join(f"{split} {whole(samples[split])}" for split in ("train", "val", "test"))
    seeds = settings.get("seeds", 1)
    recipes = found.get("recipes", {_BASELINE: found.get("recipe")})
    recipe = recipes.get(_BASELINE) or next(iter(recipes.values()))
    machine = found["provenance"]["machine"]
    device = f"{machine['cores']} cores, {machine['processor']}" if machine["device"] == "cpu" else machine["device"]
    return (
        f"{found['classes']} classes, {images} photographs (the official split; val is cut from train); batch "
        f"{recipe['batch_size']}, {recipe['learning_rate']:g} as highest learning rate of `{_BASELINE}`, "
        f"{recipe['epochs']} epochs at {recipe['image_size']} px; {seeds} "
        f"{'seeds, mean ± standard error' if seeds > 1 else 'seed'}; percent; {device}"
    )


def ways(name: str) -> str:
    """The notebook's way and ours."""
    if not _is_there(name):
        return _MISSING
    rows = []
    for way, found in result(name)["ways"].items():
        runs = found["runs"]
        seconds = sum(run["seconds"] for run in runs) / len(runs)
        rate = sum(run["images"] for run in runs) / sum(run["seconds"] for run in runs)
        rows.append(
            [
                way,
                *(_percent(found[key]) for key in ("val_top1", "test_top1", "test_top5")),
                whole(runs[0]["images"]),
                f"{seconds:.0f}",
                f"{rate:.1f}",
            ]
        )
    return table(["", "val top-1", "test top-1", "test top-5", "images seen", "seconds", "images/s"], rows)


def differences(name: str) -> str:
    """How far ours is from the notebook's way."""
    if not _is_there(name):
        return _MISSING
    return "; ".join(
        f"{way} minus the plain loop: {_percent(of['test_top1'], signed=True)} on test, "
        f"{_percent(of['val_top1'], signed=True)} on val"
        for way, of in result(name)["differences"].items()
    )


def baseline_top1(name: str) -> str:
    """Test top-1 of `baseline`, in a sentence."""
    return _percent(result(name)["ways"]["food101_fast"]["test_top1"])


def decoding(name: str) -> str:
    """Four cells: how the JPEGs of train and of test were decoded."""
    if not _is_there(name) or not result(name)["decoding"]:
        return _MISSING
    cells = {(cell["trained"], cell["tested"]): _percent(cell) for cell in result(name)["decoding"]}
    ways_of = ("scaled", "full")
    rows = [[f"trained on {of}", *(cells[of, tested] for tested in ways_of)] for of in ways_of]
    return table(["test top-1", *(f"tested on {tested}" for tested in ways_of)], rows)


def rows_of(name: str, *, work: bool = False) -> str:
    """Accuracies of each row, and what it gains over `baseline`.

    Args:
        name: of the result.
        work: whether to show images times pixels, as a share of those of `baseline`.
    """
    if not _is_there(name):
        return _MISSING
    found = result(name)
    start = found["rows"][_BASELINE]["runs"][0]["pixels"]
    lines = []
    for row, of in found["rows"].items():
        gain = found["gains"].get(row)
        shares = [f"{of['runs'][0]['pixels'] / start:.2f}"] if work else []
        lines.append(
            [
                f"`{row}`" if work or row == _BASELINE else row,
                *shares,
                *(_percent(of[key]) for key in ("val_top1", "test_top1", "test_top5")),
                *(["", ""] if gain is None else [_percent(gain[key], signed=True) for key in _GAINED]),
            ]
        )
    for row, of in found.get("ensembles", {}).items():
        if row in (_BASELINE, "strong"):
            base = found["rows"][_BASELINE]
            gains = [f"{100 * (of[key] - base[key]['mean']):+.1f}" for key in _GAINED]
            shares = [f"{3 * found['rows'][row]['runs'][0]['pixels'] / start:.2f}"] if work else []
            scores = [f"{100 * of[key]:.1f}" for key in ("val_top1", "test_top1", "test_top5")]
            lines.append([f"three `{row}`, averaged", *shares, *scores, *gains])
    head = ["val top-1", "test top-1", "test top-5", "gain on val", "gain on test"]
    return table(["recipe", "images x pixels", *head] if work else ["change", *head], lines)


def networks() -> str:
    """All of Food-101 at 64 px."""
    if not _is_there("full-food101-cpu"):
        return _MISSING
    rows = []
    for name, found in result("full-food101-cpu")["networks"].items():
        (run,) = found["runs"]
        low, high = found["top1_interval"]
        rows.append(
            [
                f"`{name}`",
                " ".join(f"{100 * value:.1f}" for value in run["curve"]),
                f"{100 * run['test_top1']:.2f} ({100 * low:.1f} to {100 * high:.1f})",
                f"{100 * run['test_top5']:.2f}",
                f"{found['macro_f1']:.4f}",
                ", ".join(f"{label} {100 * recall:.0f}" for label, recall in list(found["worst"].items())[:5]),
            ]
        )
    head = ["network", "val top-1 by epoch", "test top-1 (95 % interval)", "top-5", "macro F1", "lowest recall"]
    return table(head, rows)


def confused() -> str:
    """The pairs of classes that are confused most often."""
    if not _is_there("full-food101-cpu"):
        return _MISSING
    name, found = next(iter(result("full-food101-cpu")["networks"].items()))
    rows = [
        [pair["true"], pair["predicted"], whole(pair["count"]), f"{100 * pair['share']:.0f} %"]
        for pair in found["confused"]
    ]
    return table([f"class (`{name}`)", "taken for", "test images", "of the class"], rows)


ACCURACY_BLOCKS: dict[str, Callable[[], str]] = {
    **{f"{name}-ways": partial(ways, f"{name}-cpu") for name in ("notebook-10", "notebook-101")},
    **{f"{name}-differences": partial(differences, f"{name}-cpu") for name in ("notebook-10", "notebook-101")},
    **{f"{name}-data": partial(_conditions, f"{name}-cpu") for name in ("notebook-10", "notebook-101", "ablation")},
    **{f"{name}-data": partial(_conditions, f"{name}-cpu") for name in ("recipes-10", "recipes-101")},
    "baseline-10": partial(baseline_top1, "notebook-10-cpu"),
    "decoding": partial(decoding, "notebook-10-cpu"),
    "ablation": partial(rows_of, "ablation-cpu"),
    "recipes-10": partial(rows_of, "recipes-10-cpu", work=True),
    "recipes-101": partial(rows_of, "recipes-101-cpu", work=True),
    "full-food101": networks,
    "full-food101-confused": confused,
}
"""By the name that a page asks for."""
