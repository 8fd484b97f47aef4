"""What changed between two results of bench, beyond what repetitions of one differ by."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from scipy.stats import mannwhitneyu

from food101_fast.bench.ceilings import MATRIX, MEMORY
from food101_fast.bench.results import RESULT_VERSION, StageResult
from food101_fast.documents import parse
from food101_fast.errors import UserError

_LEVEL = 0.05
"""Probability that a comparison reports any change where there is none."""

_SMALLEST = 0.03
"""Changes below this are not reported: they may be real, but nobody looks for them."""

_ADVICE = "give files that bench --json wrote"


@dataclass(frozen=True, kw_only=True)
class SavedCeiling:
    """A hardware limit in a file."""

    repetitions: Sequence[float]
    """Its rate in each round."""


@dataclass(frozen=True, kw_only=True)
class SavedSettings:
    """Settings in a file."""

    recipe: Mapping[str, object]
    """Fields of the recipe, as the version that wrote the file had them."""


@dataclass(frozen=True, kw_only=True)
class SavedLoading:
    """How images were loaded."""

    encoding: str
    stored_size: int
    threads: int
    residence: str
    verify: str


@dataclass(frozen=True, kw_only=True)
class SavedProvenance:
    """Where a file's figures come from."""

    machine: Mapping[str, object]
    versions: Mapping[str, str]
    busy: bool
    """Whether other programs used a tenth or more of the processors."""


@dataclass(frozen=True, kw_only=True)
class SavedResult:
    """What is compared of a file that `bench --json` wrote, with whichever commit of the same version of the file."""

    provenance: SavedProvenance
    settings: SavedSettings
    loading: SavedLoading
    ceilings: Mapping[str, SavedCeiling]
    stages: Mapping[str, StageResult]


@dataclass(frozen=True, kw_only=True)
class _Version:
    version: int


@dataclass(frozen=True, kw_only=True)
class Change:
    """A stage in two results."""

    stage: str
    """Its name."""
    before: float
    """Images per second in the first result, the median."""
    after: float
    """The same in the second one."""
    ratio: float
    """`after` over `before`, each relative to the hardware limit in the same rounds."""
    p: float
    """p-value of the Mann-Whitney test."""
    changed: bool
    """Whether that is more than repetitions differ by."""


def read_result(path: Path) -> SavedResult:
    """Read what `bench --json` wrote.

    Raises:
        UserError: there is no such file, or it is something else or of another version.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}); {_ADVICE}") from error
    version = parse(content, _Version, where=str(path), advice=_ADVICE).version
    if version != RESULT_VERSION:
        raise UserError(f"{path} has version {version}, and this program compares {RESULT_VERSION}; measure again")
    return parse(content, SavedResult, where=str(path), advice=_ADVICE)


def compare(before: SavedResult, after: SavedResult) -> list[Change]:
    """Compare the stages that both results have.

    A shared machine is faster at one time than at another. So each repetition's rate is divided by that of the
    hardware limit in the same round: what remains is the program's share. A change is reported if the two sets of
    shares differ by a Mann-Whitney test at a level of 5 % for all stages together (Bonferroni), and their medians by
    3 %. With fewer than six repetitions no difference can be significant.
    """
    common = [name for name in before.stages if name in after.stages]
    changes = []
    for name in common:
        one, two = (_shares(result, name) for result in (before, after))
        p = float(mannwhitneyu(one, two, method="exact").pvalue)
        ratio = statistics.median(two) / statistics.median(one)
        changes.append(
            Change(
                stage=name,
                before=before.stages[name].images_per_second,
                after=after.stages[name].images_per_second,
                ratio=ratio,
                p=p,
                changed=p < _LEVEL / len(common) and abs(ratio - 1) > _SMALLEST,
            )
        )
    return changes


def _shares(result: SavedResult, name: str) -> list[float]:
    """A stage's rates over those of the hardware limit in the same rounds."""
    stage = result.stages[name]
    ceiling = stage.ceiling or (MEMORY if name in ("read", "gather", "decode", "checksum") else MATRIX)
    most = result.ceilings[ceiling].repetitions
    return [rate / limit for rate, limit in zip(stage.repetitions, most, strict=True)]


def differing_settings(before: SavedResult, after: SavedResult) -> list[str]:
    """What differs between the two measurements beside the program, one text for each difference."""
    pairs: list[tuple[Mapping[str, object], Mapping[str, object]]] = [
        (before.settings.recipe, after.settings.recipe),
        (before.provenance.machine, after.provenance.machine),
        (before.provenance.versions, after.provenance.versions),
        (asdict(before.loading), asdict(after.loading)),
    ]
    notes = [
        f"{key}: {one.get(key)} and {two.get(key)}" for one, two in pairs for key in one if one.get(key) != two.get(key)
    ]
    return notes + [
        f"the {which} result was measured on a busy machine"
        for which, result in (("first", before), ("second", after))
        if result.provenance.busy
    ]
