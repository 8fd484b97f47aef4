"""What `bench --json` writes, as records: rates of stages and ceilings, and what they were measured on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from food101_fast.compute.device import Machine
from food101_fast.loader.pipeline import Counters
from food101_fast.runs.recipe import Recipe

RESULT_VERSION = 2
"""Of the file; raised when a key changes its meaning."""

Kind = Literal["loading", "transforms", "model"]
"""What can bound a training step."""

# These have no key in the file where they are None. Every other None is written as null.
_OPTIONAL_KEYS = frozenset(
    {
        *("amount_per_image", "ceiling", "share_of_ceiling"),
        *("free", "loading_costs", "parts_over_fixed_batch", "verdict"),
    }
)


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """The rate of one stage."""

    images_per_second: float
    """Median of the repetitions."""
    repetitions: Sequence[float]
    """Images per second, one number for each round."""
    amount_per_image: float | None = None
    """Bytes or floating point operations that an image takes, in the unit of the ceiling; None without a ceiling."""
    ceiling: str | None = None
    """Name of the hardware limit that bounds this stage; None if none that was measured does."""
    share_of_ceiling: float | None = None
    """Share of that limit that the stage reaches, between 0 and 1: the median over the rounds."""


@dataclass(frozen=True, kw_only=True)
class CeilingResult:
    """A hardware limit."""

    per_second: float
    """Median of the repetitions: bytes, or floating point operations of a matrix product."""
    repetitions: Sequence[float]
    """The same per round."""


@dataclass(frozen=True, kw_only=True)
class ColdRead:
    """Reading shards that are not in memory."""

    bytes_per_second: float
    """Median of the repetitions."""
    repetitions: Sequence[float]
    """Bytes per second, one number for each file."""


@dataclass(frozen=True, kw_only=True)
class Gains:
    """How many times as fast a training step is when something in it costs nothing: medians over the rounds."""

    loading: float
    """With a batch that is already in memory."""
    transforms: float
    """With images that are already transformed."""
    model: float
    """Without forward, backward and optimizer."""


@dataclass(frozen=True, kw_only=True)
class MeasuredSettings:
    """What was measured, and for how long."""

    recipe: Recipe
    """Recipe of the training step, with the batch size that was measured."""
    budget: float
    """Seconds for the whole measurement."""
    seconds: float
    """Length of a repetition that was asked for."""
    repetitions: int
    """Number of repetitions that was asked for."""


@dataclass(frozen=True, kw_only=True)
class Loading:
    """The shards, and how they were loaded."""

    encoding: str
    """raw or jpeg."""
    stored_size: int
    """Height and width of the stored images, in pixels."""
    place: Literal["local", "remote"]
    """Whether the shards are on a disk or behind a URL."""
    bytes: int
    """Size of the split train as it is stored."""
    decoded_bytes: int
    """Size of the split train as decoded pixels."""
    free_memory: int | None
    """Bytes of free memory; None where the system does not say."""
    threads: int
    """Threads of the loader."""
    cores: int
    """Processor cores that this process may use."""
    verify: str
    """When checksums are compared, see `LoaderOptions.verify`."""
    residence: str
    """Where images are after the first epoch: stream, host or device."""
    residence_reason: str
    """Why they are there, in words."""
    window: int | None
    """Samples that are shuffled with each other; None for all."""
    counters: Counters
    """What the loader has done."""


@dataclass(frozen=True, kw_only=True)
class CpuState:
    """State of the processor cores after the measurement."""

    mhz: list[float] | None
    """Clock of each core; None where the system does not say."""
    governor: str | None
    """What governs the clocks; None where the system does not say."""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a result comes from, and whether other programs disturbed it."""

    commit: str | None
    """Commit of the code, with a plus sign if files were changed; None if it is unknown."""
    versions: Mapping[str, str]
    """Version of Python and of each package that decides figures."""
    machine: Machine
    """Hardware and system."""
    started: str
    """Date and time (ISO 8601, UTC)."""
    load_before: float
    """Load average of the last minute before it started."""
    others_share: float
    """Share of the processors' time that other programs used meanwhile, between 0 and 1."""
    busy: bool
    """Whether that is a tenth or more."""
    cpu_state: CpuState
    """Clocks of the processor."""
    gpu_state: Mapping[str, str] | None
    """Power, clocks and temperature of the GPU, as nvidia-smi prints them; None without a GPU."""


@dataclass(frozen=True, kw_only=True)
class Durations:
    """How long the measurement took, in seconds."""

    preparing: float
    """Before the first stage ran: model, loader, compilation caches."""
    warm_up: float
    """The round that is not counted, with compilation."""
    all: float
    """The whole command."""
    repetition: float
    """Length of one repetition, as it was in the end."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Which stage bounds training, and what to change."""

    stage: str
    """The stage; for loading, its slowest step."""
    kind: Kind
    """Loading, transforms or model."""
    headspace: float
    """How many times as fast training would be if that cost nothing."""
    setting: str | None
    """What to change; None if nothing would help."""
    predicted: float | None
    """How many times as fast training would be then, estimated from the measured rates; None without a setting."""
    sentence: str
    """All of it in words."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What was measured, before anything is said about the machine or the time it took."""

    settings: MeasuredSettings
    """What was measured."""
    precision: str
    """Type in which matrices are multiplied, such as float32."""
    loading: Loading
    """Shards and loader."""
    ceilings: Mapping[str, CeilingResult]
    """Hardware limits by name."""
    stages: Mapping[str, StageResult]
    """Stages by name."""
    cold_read: ColdRead | None
    """Reading from the disk; None where it can't be measured."""
    free: Gains | None = None
    """Gains if something cost nothing; None if the step from shards was not measured."""
    loading_costs: bool | None = None
    """Whether loading slowed the step down in every round; None if that step was not measured."""
    parts_over_fixed_batch: float | None = None
    """Seconds of transforms, forward + backward and optimizer, added up, over those of the step on a fixed batch."""


@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """One measurement of bench."""

    version: int = RESULT_VERSION
    provenance: Provenance
    """What it was measured on."""
    findings: Findings
    """Rates, and what they say; their keys stand beside the others in the file."""
    timing: Durations
    """How long it took."""
    remarks: Sequence[str]
    """Sentences about what was measured differently from what was asked for."""
    verdict: Verdict | None = None
    """What bounds training; None if only some stages were measured."""


def to_document(result: BenchResult) -> dict[str, Any]:
    """A result as `bench --json` writes it."""
    whole: Any = asdict(result, dict_factory=_without_missing)
    findings = whole.pop("findings")
    return {"version": whole.pop("version"), "provenance": whole.pop("provenance"), **findings, **whole}


def _without_missing(items: list[tuple[str, object]]) -> dict[str, object]:
    return {name: value for name, value in items if value is not None or name not in _OPTIONAL_KEYS}
