"""What docs/class-balance.md says was measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from figures import RESULTS, result, table, whole

_NAME = "balance-cpu"


def _with_error(summary: dict[str, Any]) -> str:
    error = summary["standard_error"]
    return f"{summary['mean']:.3f}" + ("" if error is None else f" ± {error:.3f}")


def balance() -> str:
    """Balanced accuracy of each choice."""
    if not (RESULTS / f"{_NAME}.json").exists():
        return "Not measured yet."
    rows = [
        [f"`{name}`", *(_with_error(of[key]) for key in ("balanced_accuracy", "few", "medium", "many"))]
        for name, of in result(_NAME)["results"].items()
    ]
    head = ["choice", "balanced accuracy", "third with the fewest images", "medium third", "third with the most"]
    return table(head, rows)


def balance_data() -> str:
    """What it was measured on."""
    if not (RESULTS / f"{_NAME}.json").exists():
        return "Not measured yet."
    found = result(_NAME)
    cut, settings = found["cut"], found["settings"]
    return (
        f"{settings['classes']} classes of Food-101 at {settings['image_size']} px with {max(cut['train'])} to "
        f"{min(cut['train'])} training images ({whole(cut['samples']['train'])} in all), `{settings['model']}` from "
        f"ImageNet weights, {settings['epochs']} epochs, {settings['seeds']} seeds, "
        f"{whole(cut['samples']['test'])} balanced test images; mean ± standard error"
    )


BALANCE_BLOCKS: dict[str, Callable[[], str]] = {"class-balance": balance, "class-balance-data": balance_data}
"""By the name that a page asks for."""
