"""What changed between two results of bench, beyond what repetitions of one differ by."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from scipy.stats import mannwhitneyu

from food101_fast.bench.ceilings import MATRIX, MEMORY
from food101_fast.bench.stages import RESULT_VERSION
from food101_fast.errors import UserError

_LEVEL = 0.05
"""Probability that a comparison reports any change where there is none."""

_SMALLEST = 0.03
"""Changes below this are left out: they are real at times, but never what one looks for."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """A stage in two results."""

    stage: str
    before: float
    """Images per second, the median."""
    after: float
    ratio: float
    """`after` over `before`, with what the machine itself did in the same repetitions taken out."""
    p: float
    """Of the Mann-Whitney test."""
    changed: bool


def read_result(path: Path) -> dict[str, Any]:
    """Read what `bench --json` wrote.

    Raises:
        UserError: there is no such file, or it is something else or of another version.
    """
    try:
        result: dict[str, Any] = orjson.loads(path.read_bytes())
        if not isinstance(result, dict):
            raise TypeError("of a sweep, perhaps")
        version = result["version"]
        if not isinstance(result["stages"], dict) or not isinstance(result["ceilings"], dict):
            raise TypeError("no stages")
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}); give files that bench --json wrote") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no result of bench ({error}); give files that bench --json wrote") from error
    if version != RESULT_VERSION:
        raise UserError(f"{path} has version {version}, and this program compares {RESULT_VERSION}; measure again")
    return result


def compare(before: dict[str, Any], after: dict[str, Any]) -> list[Change]:
    """Compare the stages that both results have.

    A machine that is shared is faster at one time than at another. So each repetition's rate is divided by that of the
    machine's own ceiling in the same repetition: what is left is the program's. A change is reported if the two sets of
    such shares differ by a Mann-Whitney test at a level of 5 % for all stages together (Bonferroni), and their medians
    by 3 %. With fewer than six repetitions nothing can be told apart.
    """
    common = [name for name in before["stages"] if name in after["stages"]]
    changes = []
    for name in common:
        one, two = (_shares(result, name) for result in (before, after))
        p = float(mannwhitneyu(one, two, method="exact").pvalue)
        ratio = statistics.median(two) / statistics.median(one)
        changes.append(
            Change(
                stage=name,
                before=before["stages"][name]["images_per_second"],
                after=after["stages"][name]["images_per_second"],
                ratio=ratio,
                p=p,
                changed=p < _LEVEL / len(common) and abs(ratio - 1) > _SMALLEST,
            )
        )
    return changes


def _shares(result: dict[str, Any], name: str) -> list[float]:
    """A stage's rates over those of the machine in the same repetitions."""
    stage = result["stages"][name]
    ceiling = stage.get("ceiling") or (MEMORY if name in ("read", "gather", "decode", "checksum") else MATRIX)
    most = result["ceilings"][ceiling]["repetitions"]
    return [rate / limit for rate, limit in zip(stage["repetitions"], most, strict=True)]


def differing_settings(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What the two results were not measured alike with, as texts."""
    notes = []
    for part, name in (("settings", "recipe"), ("provenance", "machine"), ("provenance", "versions")):
        one, two = before[part][name], after[part][name]
        notes += [f"{key}: {one.get(key)} and {two.get(key)}" for key in one if one.get(key) != two.get(key)]
    keys = ("encoding", "stored_size", "threads", "residence", "verify")
    notes += [
        f"{key}: {before['loading'][key]} and {after['loading'][key]}"
        for key in keys
        if before["loading"][key] != after["loading"][key]
    ]
    notes += [
        f"the {which} result was measured on a busy machine"
        for which, result in (("first", before), ("second", after))
        if result["provenance"]["busy"]
    ]
    return notes
