"""From rates to findings: medians, shares of hardware limits, and how much there is to gain. Pure functions."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from operator import truediv

from food101_fast.bench.ceilings import shares
from food101_fast.bench.measure import median_of_ratios
from food101_fast.bench.results import CeilingResult, ColdRead, Findings, Gains, Loading, MeasuredSettings, StageResult
from food101_fast.bench.works import FIXED, NO_MODEL, NO_TRANSFORMS, PARTS, WHOLE, Stage

Rates = Mapping[str, Sequence[float]]
"""By stage or ceiling, its rate per second in each round."""


def summarize(
    rates: Rates,
    stages: Mapping[str, Stage],
    limits: Iterable[str],
    *,
    settings: MeasuredSettings,
    precision: str,
    loading: Loading,
    cold_read: ColdRead | None,
) -> Findings:
    """What the rates of stages and hardware limits say.

    Args:
        rates: of every stage and every limit.
        stages: that were measured, in the order of the result.
        limits: names of the hardware limits.
        settings: what was measured.
        precision: type in which matrices are multiplied.
        loading: shards and loader.
        cold_read: reading from the disk; None where it can't be measured.
    """
    return Findings(
        settings=settings,
        precision=precision,
        loading=loading,
        ceilings={name: _ceiling_result(rates[name]) for name in limits},
        stages={name: _stage_result(stage, rates[name], rates) for name, stage in stages.items()},
        cold_read=cold_read,
        free=_gains(rates),
        loading_costs=_loading_costs(rates),
        parts_over_fixed_batch=_parts_over_fixed_batch(rates),
    )


def _stage_result(stage: Stage, own: Sequence[float], rates: Rates) -> StageResult:
    median = statistics.median(own)
    if stage.amount is None or stage.ceiling is None:
        return StageResult(images_per_second=median, repetitions=own)
    return StageResult(
        images_per_second=median,
        repetitions=own,
        amount_per_image=stage.amount,
        ceiling=stage.ceiling,
        share_of_ceiling=statistics.median(shares(own, stage.amount, rates[stage.ceiling])),
    )


def _ceiling_result(own: Sequence[float]) -> CeilingResult:
    return CeilingResult(per_second=statistics.median(own), repetitions=own)


def _gains(rates: Rates) -> Gains | None:
    """How many times as fast the step from shards is without each kind of work; None if it was not measured."""
    if WHOLE not in rates:
        return None
    loading, transforms, model = (
        median_of_ratios(rates[without], rates[WHOLE]) for without in (FIXED, NO_TRANSFORMS, NO_MODEL)
    )
    return Gains(loading=loading, transforms=transforms, model=model)


def _loading_costs(rates: Rates) -> bool | None:
    """Whether the step from shards was slower than the one on a fixed batch in every round; None if not measured."""
    return min(map(truediv, rates[FIXED], rates[WHOLE])) > 1 if WHOLE in rates else None


def _parts_over_fixed_batch(rates: Rates) -> float | None:
    """Time of the step's parts, added up, over the time of the whole step; None if that was not measured."""
    if FIXED not in rates:
        return None
    seconds = [sum(1 / rates[part][i] for part in PARTS) for i in range(len(rates[FIXED]))]
    return median_of_ratios(rates[FIXED], [1 / total for total in seconds])
