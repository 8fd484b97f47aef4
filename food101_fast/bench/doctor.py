"""Which stage bounds training, how much faster training would be without it, and what to change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from food101_fast.bench.results import Findings, Gains, Kind, Verdict
from food101_fast.bench.works import FIXED, LOADER, WHOLE
from food101_fast.compute.device import Machine

_SMALL = 96
"""Height and width in pixels below which a model gains less than its pixels promise. MobileNetV2 on 2 cores did 1.8
times the images at 128 px that it did at 160, 1.7 times at 96 against 128, and then no more than 1.8 and 2.0 at 64 and
32 px, where pixels promise 2.2 and 4."""

_NAMES = {
    "read": "reading the shards",
    "decode": "decoding",
    "gather": "gathering rows",
    "checksum": "checksums",
    "host to device": "copying to the device",
    "transforms": "transforms",
    "model": "model",
}


@dataclass(frozen=True, kw_only=True)
class _Advice:
    """What to change."""

    setting: str
    """A flag of train, a command, or words."""
    predicted: float
    """How many times as fast training is then."""
    at_most: bool = False
    """Whether it may well be less."""
    caveat: str | None = None
    """What it costs."""

    def __str__(self) -> str:
        setting = f"`{self.setting}`" if self.setting.startswith(("--", "prepare ")) else self.setting
        caveat = "" if self.caveat is None else f", {self.caveat}"
        return f"Try {setting} ({'at most ' if self.at_most else '~'}{self.predicted:.1f}x{caveat})."


@dataclass(frozen=True, kw_only=True)
class _Case:
    """What advice is based on."""

    findings: Findings
    machine: Machine
    gains: Gains

    def rate(self, stage: str) -> float:
        """Images per second of a stage."""
        return self.findings.stages[stage].images_per_second


def diagnose(findings: Findings, machine: Machine, *, brief: bool = False) -> Verdict:
    """Say which stage bounds training, from the rates of all stages.

    It is the stage without which the step would be fastest; where that is loading, the step of loading with the
    fewest images per second.

    Args:
        findings: of `run_bench`, with all stages.
        machine: that they were measured on.
        brief: leave what loading costs out of the sentence: a single repetition is too noisy to tell.

    Raises:
        ValueError: the step from shards was not measured.
    """
    if findings.free is None:
        raise ValueError("all stages must be measured")
    gains = findings.free
    case = _Case(findings=findings, machine=machine, gains=gains)
    gain_of: dict[Kind, float] = {"loading": gains.loading, "transforms": gains.transforms, "model": gains.model}
    kind = max(gain_of, key=lambda name: gain_of[name])
    stage = _loading_stage(case) if kind == "loading" else kind
    changes: dict[Kind, Callable[[_Case], _Advice | None]] = {
        "loading": lambda case: _change_loading(case, stage),
        "transforms": _change_transforms,
        "model": _change_model,
    }
    advice = changes[kind](case)
    sentence = (
        f"Bottleneck: {_NAMES[stage]} ({case.rate(WHOLE):,.0f} images/s; {gain_of[kind]:.1f}x faster without it)."
    )
    sentence += " No setting would help; a faster machine would." if advice is None else f" {advice}"
    if kind != "loading" and not brief:
        costs = f"a factor of {gains.loading:.2f}" if findings.loading_costs else "nothing measurable"
        sentence += (
            f" Loading costs {costs}: with a batch already in memory a step does {case.rate(FIXED):,.0f} images/s."
        )
    return Verdict(
        stage=stage,
        kind=kind,
        headspace=gain_of[kind],
        setting=None if advice is None else advice.setting,
        predicted=None if advice is None else advice.predicted,
        sentence=sentence,
    )


def _loading_stage(case: _Case) -> str:
    """The step of loading that gives the fewest images per second, with all threads at work.

    The loader's threads also read from the disk, so that local reading is part of what they do. Reading has a rate of
    its own only where shards are downloaded, or do not fit into the page cache.
    """
    loading = case.findings.loading
    work = _thread_work(case)
    limits = {work: case.rate(work) * loading.threads}
    if loading.verify == "always":
        limits["checksum"] = case.rate("checksum") * loading.threads
    if loading.place == "remote":
        limits["read"] = case.rate("read")
    elif (cold := _cold_rate(case)) is not None:
        limits["read"] = cold
    if "host to device" in case.findings.stages:
        limits["host to device"] = case.rate("host to device")
    return min(limits, key=lambda name: limits[name])


def _thread_work(case: _Case) -> str:
    """What a thread of the loader does with each image."""
    return "gather" if case.findings.loading.encoding == "raw" else "decode"


def _cold_rate(case: _Case) -> float | None:
    """Images per second from the disk, if the files do not fit into free memory and every epoch reads them again."""
    loading, cold = case.findings.loading, case.findings.cold_read
    bytes_per_image = case.findings.stages["read"].amount_per_image
    if loading.free_memory is None or loading.bytes <= loading.free_memory or cold is None or bytes_per_image is None:
        return None
    return cold.bytes_per_second / bytes_per_image


def _change_loading(case: _Case, stage: str) -> _Advice | None:
    loading, gain = case.findings.loading, case.gains.loading
    fits = loading.free_memory is None or loading.decoded_bytes < loading.free_memory / 2
    keep_decoded = _Advice(
        setting="--residence host",
        predicted=gain,
        caveat=f"takes {loading.decoded_bytes / 1e9:.1f} GB of memory",
    )
    if stage == "host to device":
        return _Advice(setting="--residence device", predicted=gain)
    if stage == "checksum":
        return _Advice(setting="--verify first-epoch", predicted=_faster_loader(case, _without_checksum(case)))
    if stage == "read":
        return keep_decoded if fits else _Advice(setting="a faster local disk for the shards", predicted=gain)
    if loading.threads < loading.cores:
        threads = loading.cores
        return _Advice(setting=f"--threads {threads}", predicted=_faster_loader(case, threads / loading.threads))
    if stage == "decode":
        return keep_decoded if fits else _Advice(setting="prepare --encoding raw", predicted=gain)
    return None


def _without_checksum(case: _Case) -> float:
    """How many times as fast a loader's thread is that only gathers or decodes."""
    return 1 + case.rate(_thread_work(case)) / case.rate("checksum")


def _faster_loader(case: _Case, factor: float) -> float:
    """The gain if the loader gave `factor` times as many images: until the rest of the step is the slower one."""
    return max(1.0, min(case.rate(LOADER) * factor / case.rate(WHOLE), case.gains.loading))


def _change_transforms(case: _Case) -> _Advice | None:
    recipe, gain = case.findings.settings.recipe, case.gains.transforms
    if recipe.preset != "baseline":
        return _Advice(setting="--preset baseline", predicted=gain, at_most=True, caveat="may cost accuracy")
    stored, size = case.findings.loading.stored_size, recipe.image_size
    smaller = round(size * 8 / 7)  # what evaluation resizes to
    if smaller < stored:
        # The work is proportional to the pixels that go in and come out.
        share = (smaller**2 + size**2) / (stored**2 + size**2)
        spent = 1 - 1 / gain
        return _Advice(setting=f"prepare --size {smaller}", predicted=1 / (1 - spent * (1 - share)))
    if case.machine.device == "cpu":
        return _Advice(setting="a GPU", predicted=gain, at_most=True)
    return None


def _change_model(case: _Case) -> _Advice | None:
    size = case.findings.settings.recipe.image_size
    smaller = max(size - 32, 32)
    if smaller == size:
        return None
    spent = 1 - 1 / case.gains.model
    # Work is proportional to the pixels, but with small images the device does fewer operations per second.
    return _Advice(
        setting=f"--image-size {smaller}",
        predicted=1 / (1 - spent * (1 - (smaller / size) ** 2)),
        at_most=smaller < _SMALL,
        caveat="may cost accuracy",
    )
