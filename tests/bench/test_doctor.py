"""The doctor names the stage that was made slow on purpose, and says what to change."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from food101_fast.bench import diagnose
from food101_fast.bench.results import ColdRead, Findings, Gains, Loading, MeasuredSettings, StageResult
from food101_fast.runs.recipe import Recipe
from tests.bench.simulated import LOADING, MACHINE, Costs, simulated_findings, simulated_verdict


def whole_rate(costs: Costs, loading: Loading) -> float:
    """Images per second of the step from shards."""
    return simulated_findings(costs, loading).stages["step from shards"].images_per_second


def test_decoding_with_one_thread() -> None:
    costs, loading = Costs(work=2e-3, checksum=1e-4), replace(LOADING, encoding="jpeg")
    found = simulated_verdict(costs, loading)
    assert (found.stage, found.setting) == ("decode", "--threads 4")
    assert found.headspace == pytest.approx(2e-3 / 2e-4, rel=0.01)
    # What it predicts is what that machine then does.
    gain = whole_rate(costs, replace(loading, threads=4)) / whole_rate(costs, loading)
    assert found.predicted == pytest.approx(gain, rel=0.05)


def test_a_slow_connection() -> None:
    found = simulated_verdict(Costs(read=1e-3), replace(LOADING, place="remote"))
    assert (found.stage, found.setting) == ("read", "--residence host")
    assert found.headspace == pytest.approx(1e-3 / 2e-4, rel=0.01)


def test_checksums_in_every_epoch() -> None:
    costs, loading = Costs(checksum=1e-3, work=9e-4), replace(LOADING, verify="always", threads=4)
    found = simulated_verdict(costs, loading)
    assert (found.stage, found.setting) == ("checksum", "--verify first-epoch")
    gain = whole_rate(costs, replace(loading, verify="never")) / whole_rate(costs, loading)
    assert found.predicted == pytest.approx(gain, rel=0.05)


def test_heavy_transforms() -> None:
    found = simulated_verdict(Costs(transforms=1e-3), recipe=Recipe(weights="none", preset="strong"))
    assert (found.stage, found.setting) == ("transforms", "--preset baseline")
    assert found.headspace == pytest.approx(1.1e-3 / 1e-4, rel=0.01)


def test_a_heavy_model() -> None:
    found = simulated_verdict(Costs(model=1e-3), recipe=Recipe(weights="none", image_size=160))
    assert (found.stage, found.setting) == ("model", "--image-size 128")
    smaller = Costs(model=1e-3 * (128 / 160) ** 2)
    gain = whole_rate(smaller, LOADING) / whole_rate(Costs(model=1e-3), LOADING)
    assert found.predicted == pytest.approx(gain, rel=0.05)


COST = st.floats(5e-4, 5e-3)


@settings(max_examples=25)
@given(work=COST, transforms=COST, model=COST)
def test_what_is_gained_is_what_the_machine_gains(work: float, transforms: float, model: float) -> None:
    found = simulated_verdict(Costs(work=work, transforms=transforms, model=model, read=1e-3, checksum=1e-3))
    whole = max(work, transforms + model)
    gains = {
        "loading": whole / (transforms + model),
        "transforms": whole / max(work, model),
        "model": whole / max(work, transforms),
    }
    assert gains[found.kind] == pytest.approx(max(gains.values()), rel=0.1)
    assert found.headspace == pytest.approx(gains[found.kind], rel=0.1)


def made_up(
    free: Gains,
    loading: Loading = LOADING,
    *,
    recipe: Recipe | None = None,
    read: float = 5000.0,
    checksum: float = 2000.0,
    loader: float = 1000.0,
) -> Findings:
    """Findings with these gains and rates."""
    rates = {"loader": loader, "step, fixed batch": 900.0, "step from shards": 500.0, "gather": 2000.0}
    rates |= {"decode": 600.0, "checksum": checksum, "read": read}
    return Findings(
        settings=MeasuredSettings(recipe=recipe or Recipe(weights="none"), budget=70, seconds=0.3, repetitions=1),
        precision="float32",
        loading=loading,
        ceilings={},
        stages={
            name: StageResult(
                images_per_second=rate, repetitions=[rate], amount_per_image=1000.0 if name == "read" else None
            )
            for name, rate in rates.items()
        },
        cold_read=ColdRead(bytes_per_second=4e5, repetitions=[4e5]),
        free=free,
        loading_costs=free.loading > 1.2,
    )


LOADING_BOUND = Gains(loading=1.8, transforms=1.0, model=1.1)


@pytest.mark.parametrize(
    ("loading", "stage", "setting", "predicted"),
    [
        (replace(LOADING, encoding="jpeg"), "decode", "--threads 4", 1.8),
        (replace(LOADING, encoding="jpeg", threads=4), "decode", "--residence host", 1.8),
        (replace(LOADING, encoding="jpeg", threads=4, decoded_bytes=900), "decode", "prepare --encoding raw", 1.8),
        (replace(LOADING, threads=4), "gather", None, None),
        (replace(LOADING, verify="always", encoding="jpeg", threads=4), "decode", "--residence host", 1.8),
        (replace(LOADING, place="remote", threads=4), "read", "--residence host", 1.8),
        (replace(LOADING, bytes=2000, decoded_bytes=900), "read", "a faster local disk for the shards", 1.8),
    ],
)
def test_what_to_change_about_loading(
    loading: Loading, stage: str, setting: str | None, predicted: float | None
) -> None:
    found = diagnose(made_up(LOADING_BOUND, loading, read=300.0 if stage == "read" else 5000.0), MACHINE)
    assert (found.kind, found.stage, found.headspace) == ("loading", stage, 1.8)
    assert (found.setting, found.predicted) == (setting, predicted)


def test_checksums_that_are_compared_always() -> None:
    loading = replace(LOADING, verify="always", threads=4)
    found = diagnose(made_up(LOADING_BOUND, loading, checksum=300.0), MACHINE)
    assert (found.stage, found.setting) == ("checksum", "--verify first-epoch")


def test_twice_the_threads_are_twice_as_fast_until_the_rest_is_slower() -> None:
    loading = replace(LOADING, encoding="jpeg", cores=2)
    slow = made_up(Gains(loading=9.0, transforms=1.0, model=1.0), loading, loader=510.0)
    assert diagnose(slow, MACHINE).predicted == pytest.approx(2.04)


def test_transforms_and_models_have_advice_of_their_own() -> None:
    gains = Gains(loading=1.0, transforms=2.0, model=1.5)
    found = diagnose(made_up(gains, replace(LOADING, stored_size=256)), MACHINE)
    assert found.setting == "prepare --size 183"
    assert found.predicted is not None
    assert 1 < found.predicted < 2
    assert diagnose(made_up(gains, replace(LOADING, stored_size=160)), MACHINE).setting == "a GPU"
    heavy = made_up(replace(gains, model=4.0))
    found = diagnose(heavy, MACHINE)
    assert found.setting == "--image-size 128"
    assert found.predicted == pytest.approx(1 / (1 - 0.75 * (1 - 0.64)))
    assert found.sentence == (
        "Bottleneck: model (500 images/s; 4.0x faster without it). Try `--image-size 128` (~1.4x, may cost accuracy). "
        "Loading costs nothing measurable: with a batch already in memory a step does 900 images/s."
    )
    assert found.sentence.startswith(diagnose(heavy, MACHINE, brief=True).sentence + " Loading")


def test_loading_that_costs_something_is_said() -> None:
    found = diagnose(made_up(Gains(loading=1.5, transforms=1.0, model=2.0)), MACHINE)
    assert "Loading costs a factor of 1.50" in found.sentence


def test_a_gain_that_may_be_smaller_is_said() -> None:
    gains, loading = Gains(loading=1.0, transforms=3.0, model=1.0), replace(LOADING, stored_size=160)
    assert "Try a GPU (at most 3.0x)." in diagnose(made_up(gains, loading), MACHINE).sentence
    strong = made_up(gains, loading, recipe=Recipe(weights="none", preset="strong"))
    assert "Try `--preset baseline` (at most 3.0x, may cost accuracy)." in diagnose(strong, MACHINE).sentence


def test_where_nothing_helps_the_sentence_says_so() -> None:
    found = diagnose(made_up(LOADING_BOUND, replace(LOADING, threads=4)), MACHINE)
    assert found.sentence == (
        "Bottleneck: gathering rows (500 images/s; 1.8x faster without it). No setting would help; a faster machine "
        "would."
    )


def test_without_the_step_there_is_no_verdict() -> None:
    with pytest.raises(ValueError, match="all stages must be measured"):
        diagnose(replace(made_up(LOADING_BOUND), free=None), MACHINE)
