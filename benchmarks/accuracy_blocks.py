"""The tables of accuracy on real photographs with the official split: the notebook's way, and single changes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from figures import result, table, whole

_BASELINE = "baseline"
_GAINED = ("val_top1", "test_top1")
_SHOWN = (*_GAINED, "test_top5")


def _percent(summary: dict[str, Any], *, signed: bool = False) -> str:
    """A mean and its standard error, in percent."""
    error = summary["standard_error"]
    mean = f"{100 * summary['mean']:+.1f}" if signed else f"{100 * summary['mean']:.1f}"
    return mean if error is None else f"{mean} ± {100 * error:.1f}"


def _conditions(name: str) -> str:
    """What a measurement was made on."""
    found = result(name)
    samples, settings = found["samples"], found["settings"]
    images = ", ".join(f"{split} {whole(samples[split])}" for split in ("train", "val", "test"))
    recipe = found["recipe"] if "recipe" in found else found["recipes"][_BASELINE]
    machine = found["provenance"]["machine"]
    device = f"{machine['cores']} cores, {machine['processor']}" if machine["device"] == "cpu" else machine["device"]
    return (
        f"{found['classes']} classes, {images} photographs (the official split; val is cut from train); batch "
        f"{recipe['batch_size']}, {recipe['learning_rate']:g} as highest learning rate of `{_BASELINE}`, "
        f"{recipe['epochs']} epochs at {recipe['image_size']} px; {settings['seeds']} "
        f"seeds, mean ± standard error; percent; {device}"
    )


def ways(name: str) -> str:
    """The notebook's way and ours."""
    rows = []
    for way, found in result(name)["ways"].items():
        runs = found["runs"]
        seconds = sum(run["seconds"] for run in runs) / len(runs)
        rate = sum(run["images"] for run in runs) / sum(run["seconds"] for run in runs)
        rows.append(
            [
                way,
                *(_percent(found[key]) for key in _SHOWN),
                whole(runs[0]["images"]),
                f"{seconds:.0f}",
                f"{rate:.1f}",
            ]
        )
    return table(["", "val top-1", "test top-1", "test top-5", "images seen", "seconds", "images/s"], rows)


def differences(name: str) -> str:
    """How far ours is from the notebook's way."""
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
    cells = {(cell["trained"], cell["tested"]): _percent(cell) for cell in result(name)["decoding"]}
    ways_of = ("scaled", "full")
    rows = [[f"trained on {of}", *(cells[of, tested] for tested in ways_of)] for of in ways_of]
    return table(["test top-1", *(f"tested on {tested}" for tested in ways_of)], rows)


def ablation(name: str) -> str:
    """Accuracies with each change, and what it gains over `baseline`."""
    found = result(name)
    base, of_three = found["rows"][_BASELINE], found["ensembles"][_BASELINE]
    lines = []
    for row, of in found["rows"].items():
        gains = [_percent(found["gains"][row][key], signed=True) if row in found["gains"] else "" for key in _GAINED]
        scores = [_percent(of[key]) for key in _SHOWN]
        lines.append([f"`{row}`" if row == _BASELINE else row, *scores, *gains])
    gains = [f"{100 * (of_three[key] - base[key]['mean']):+.1f}" for key in _GAINED]
    lines.append([f"three `{_BASELINE}`, averaged", *(f"{100 * of_three[key]:.1f}" for key in _SHOWN), *gains])
    return table(["change", "val top-1", "test top-1", "test top-5", "gain on val", "gain on test"], lines)


ACCURACY_BLOCKS: dict[str, Callable[[], str]] = {
    "notebook-10-data": partial(_conditions, "notebook-10-cpu"),
    "notebook-10-ways": partial(ways, "notebook-10-cpu"),
    "notebook-10-differences": partial(differences, "notebook-10-cpu"),
    "baseline-10": partial(baseline_top1, "notebook-10-cpu"),
    "decoding": partial(decoding, "notebook-10-cpu"),
    "ablation-data": partial(_conditions, "ablation-cpu"),
    "ablation": partial(ablation, "ablation-cpu"),
}
"""By the name that a page asks for."""
