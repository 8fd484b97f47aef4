"""Which stage bounds a run, how much faster it would be without, and what to change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from food101_fast.bench.works import FIXED, LOADER, WHOLE


@dataclass(frozen=True, kw_only=True)
class _Advice:
    """What to change."""

    setting: str
    """A flag of train, a command, or words."""
    predicted: float
    """How many times as fast the run is then."""
    at_most: bool = False
    """Whether it may well be less."""
    caveat: str | None = None
    """What it costs."""

    def __str__(self) -> str:
        setting = f"`{self.setting}`" if self.setting.startswith(("--", "prepare ")) else self.setting
        caveat = "" if self.caveat is None else f", {self.caveat}"
        return f"Try {setting} ({'at most ' if self.at_most else '~'}{self.predicted:.1f}x{caveat})."


def diagnose(result: dict[str, Any], *, brief: bool = False) -> dict[str, Any]:
    """Read a result of all stages.

    The stage that bounds the run is the one without which it would be fastest; where that is loading, the part of it
    with the least images per second.

    Args:
        result: of `run_bench`.
        brief: leave what loading costs out of the sentence: a single repetition can't tell.

    Returns:
        `stage`; `kind`, loading, transforms or model; `headspace`, how many times as fast the run would be if that were
        free; `setting`, what to change, and `predicted`, how many times as fast the run is then, estimated from the
        rates measured here, both None where there is nothing to change; `sentence`, all of it.
    """
    free = result["free"]
    kind = max(free, key=lambda name: free[name])
    stage = _loading_stage(result) if kind == "loading" else kind
    rate = result["stages"][WHOLE]["images_per_second"]
    if kind == "loading":
        advice = _change_loading(result, stage)
    else:
        advice = (_change_transforms if kind == "transforms" else _change_model)(result)
    sentence = f"Bottleneck: {_NAMES[stage]} ({rate:,.0f} images/s; {free[kind]:.1f}x faster without it)."
    sentence += " No setting would help; a faster machine would." if advice is None else f" {advice}"
    if kind != "loading" and not brief:
        costs = f"a factor of {free['loading']:.2f}" if result["loading_costs"] else "nothing measurable"
        fixed = result["stages"][FIXED]["images_per_second"]
        sentence += f" Loading costs {costs}: with a batch already in memory a step does {fixed:,.0f} images/s."
    return {
        "stage": stage,
        "kind": kind,
        "headspace": free[kind],
        "setting": None if advice is None else advice.setting,
        "predicted": None if advice is None else advice.predicted,
        "sentence": sentence,
    }


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


def _rate(result: dict[str, Any], stage: str) -> float:
    return float(result["stages"][stage]["images_per_second"])


def _loading_stage(result: dict[str, Any]) -> str:
    """The part of loading that gives the least images per second, with all threads at work.

    What is read from a disk is read by the threads, too, and so is part of what they do; only what is downloaded, or
    does not fit into the page cache, has a rate of its own.
    """
    loading, stages = result["loading"], result["stages"]
    work = "gather" if loading["encoding"] == "raw" else "decode"
    limits = {work: _rate(result, work) * loading["threads"]}
    if loading["verify"] == "always":
        limits["checksum"] = _rate(result, "checksum") * loading["threads"]
    if loading["place"] == "remote":
        limits["read"] = _rate(result, "read")
    elif _is_cold(result):
        limits["read"] = result["cold_read"]["bytes_per_second"] / stages["read"]["amount_per_image"]
    if "host to device" in stages:
        limits["host to device"] = _rate(result, "host to device")
    return min(limits, key=lambda name: limits[name])


def _is_cold(result: dict[str, Any]) -> bool:
    """Whether the files do not fit into the memory that is free, so that each epoch reads them from the disk."""
    free = result["loading"]["free_memory"]
    return bool(free is not None and result["loading"]["bytes"] > free and result["cold_read"] is not None)


def _change_loading(result: dict[str, Any], stage: str) -> _Advice | None:
    loading, gain = result["loading"], result["free"]["loading"]
    fits = loading["free_memory"] is None or loading["decoded_bytes"] < loading["free_memory"] / 2
    held = _Advice(
        setting="--residence host",
        predicted=gain,
        caveat=f"takes {loading['decoded_bytes'] / 1e9:.1f} GB of memory",
    )
    if stage == "host to device":
        return _Advice(setting="--residence device", predicted=gain)
    if stage == "checksum":
        return _Advice(setting="--verify first-epoch", predicted=_faster_loader(result, _without_checksum(result)))
    if stage == "read":
        return held if fits else _Advice(setting="a faster local disk for the shards", predicted=gain)
    if loading["threads"] < loading["cores"]:
        threads = loading["cores"]
        return _Advice(setting=f"--threads {threads}", predicted=_faster_loader(result, threads / loading["threads"]))
    if stage == "decode":
        return held if fits else _Advice(setting="prepare --encoding raw", predicted=gain)
    return None


def _without_checksum(result: dict[str, Any]) -> float:
    """How many times as fast a loader's thread is that only gathers or decodes."""
    work = "gather" if result["loading"]["encoding"] == "raw" else "decode"
    return 1 + _rate(result, work) / _rate(result, "checksum")


def _faster_loader(result: dict[str, Any], factor: float) -> float:
    """The gain if the loader gave `factor` times as many images: until the rest of the step is the slower one."""
    return max(1.0, min(_rate(result, LOADER) * factor / _rate(result, WHOLE), float(result["free"]["loading"])))


def _change_transforms(result: dict[str, Any]) -> _Advice | None:
    recipe, machine = result["settings"]["recipe"], result["provenance"]["machine"]
    gain = result["free"]["transforms"]
    if recipe["preset"] != "baseline":
        return _Advice(setting="--preset baseline", predicted=gain, at_most=True, caveat="may cost accuracy")
    stored, size = result["loading"]["stored_size"], recipe["image_size"]
    smaller = round(size * 8 / 7)  # what evaluation resizes to
    if smaller < stored:
        # The work is that of the pixels that go in and come out.
        share = (smaller**2 + size**2) / (stored**2 + size**2)
        spent = 1 - 1 / gain
        return _Advice(setting=f"prepare --size {smaller}", predicted=1 / (1 - spent * (1 - share)))
    if machine["device"] == "cpu":
        return _Advice(setting="a GPU", predicted=gain, at_most=True)
    return None


def _change_model(result: dict[str, Any]) -> _Advice | None:
    recipe, gain = result["settings"]["recipe"], result["free"]["model"]
    size = recipe["image_size"]
    smaller = max(size - 32, 32)
    if smaller == size:
        return None
    spent = 1 - 1 / gain
    # Work goes with the number of pixels, but of small images the device does not do as many operations per second.
    return _Advice(
        setting=f"--image-size {smaller}",
        predicted=1 / (1 - spent * (1 - (smaller / size) ** 2)),
        at_most=smaller < _SMALL,
        caveat="may cost accuracy",
    )
