"""What docs/losses.md says was measured of distillation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from figures import RESULTS, result, table, whole

_RESULT = "distillation-cpu"
_KINDS = ("teacher", "student alone", "student with teacher")


def _with_error(summary: dict[str, Any]) -> str:
    return f"{summary['mean']:.3f} ± {summary['standard_error']:.3f}"


def distillation() -> str:
    """A small network with two teachers and without."""
    if not (RESULTS / f"{_RESULT}.json").exists():
        return "Not measured yet."
    found = result(_RESULT)
    settings, samples, summary = found["settings"], found["samples"], found["summary"]
    names = {"teacher": settings["teacher"], _KINDS[1]: settings["student"], _KINDS[2]: settings["student"]}
    rows = [
        [kind, f"`{names[kind]}`", str(len(found["runs"][kind])), _with_error(summary[f"{kind}, test"])]
        for kind in _KINDS
    ]
    gain = summary["difference, test"]
    return (
        f"{whole(samples['train'])} drawn pictures of `demo:` for training and {whole(samples['test'])} for test, from "
        f"scratch; mean ± standard error over runs with different seeds:\n\n"
        + table(["", "network", "runs", "test top-1"], rows)
        + f"\n\nSeed against seed the teachers change test top-1 by {gain['mean']:+.3f} ± {gain['standard_error']:.3f} "
        f"(paired t-test, p = {gain['p_value']:.2f})."
    )


DISTILLATION_BLOCKS: dict[str, Callable[[], str]] = {"distillation": distillation}
"""By the name that a page asks for."""
