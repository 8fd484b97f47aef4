"""The tables of fine-tuning: from ImageNet's weights against random ones, and linear probes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from figures import RESULTS, result, table

_RESULT = "finetune-cpu"


def _top1(found: dict[str, Any]) -> str:
    """Top-1 with its 95 % interval."""
    low, high = found["interval"]
    return f"{found['top1']:.3f} ({low:.3f} to {high:.3f})"


def training() -> str:
    """Each backbone from its weights and from random ones, with the same settings."""
    if not (RESULTS / f"{_RESULT}.json").exists():
        return "Not measured yet."
    rows = [
        [
            f"`{run['model']}`",
            run["start"],
            " ".join(f"{epoch['val_top1']:.2f}" for epoch in run["curve"]),
            _top1(run["val"]),
            _top1(run["test"]),
            f"{run['seconds'] / 60:.1f}",
        ]
        for run in result(_RESULT)["runs"]
    ]
    return table(["model", "weights", "val top-1, epoch by epoch", "best on val", "its test top-1", "minutes"], rows)


def probes() -> str:
    """A linear probe of each backbone, and a second one with features from the cache."""
    if not (RESULTS / f"{_RESULT}.json").exists():
        return "Not measured yet."
    rows = []
    for one in result(_RESULT)["probes"]:
        first, second = one["first"], one["second"]
        found = first["probe"]
        rows.append(
            [
                f"`{one['model']}`",
                f"{found['features'][0]['size']:,}",
                _top1(first["val"]),
                _top1(first["test"]),
                f"{found['best']['weight_decay']:g}",
                f"{found['knn_top1']:.3f}",
                f"{first['seconds']:.1f}",
                f"{second['seconds']:.1f}",
            ]
        )
    head = ["model", "features", "val top-1", "test top-1", "weight decay", "kNN, val top-1", "seconds", "second time"]
    return table(head, rows)


FINETUNE_BLOCKS: dict[str, Callable[[], str]] = {"finetune": training, "probes": probes}
"""By the name that a page asks for."""
