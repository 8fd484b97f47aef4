"""Settings of a loader: what it loads (`LoaderConfig`), and how it works without changing that (`LoaderOptions`)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge

from food101_fast.limits import check_arguments, check_limits
from food101_fast.loader.residence import Residence
from food101_fast.shards.split import Verify


@dataclass(frozen=True, kw_only=True)
class LoaderOptions:
    """How a loader works. No option changes samples or their order. The commands pass these options on."""

    residence: Residence = "auto"
    """Where images are after the first epoch: stream reads them from their files, host keeps them decoded in RAM,
    device keeps them in the GPU's memory; auto decides from the free memory."""
    verify: Verify = "first-epoch"
    """When an image's bytes are compared with their checksum."""
    decode: Literal["cpu", "gpu"] = "cpu"
    """What decodes JPEG shards: the CPU, or the GPU (nvJPEG; needs the extra gpu-decode)."""
    threads: Annotated[int, Ge(1)] | None = None
    """Threads that load. By default one per core if images must be decoded, and one for raw shards (two while most rows
    were not read yet)."""
    prefetch: Annotated[int, Ge(1)] = 4
    """Batches that are loaded ahead."""

    def __post_init__(self) -> None:
        check_limits(self)

    def arguments(self) -> dict[str, Any]:
        """The fields as keyword arguments of ShardLoader."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, kw_only=True)
class LoaderConfig(LoaderOptions):
    """The arguments of `ShardLoader`, whose signature gives the defaults.

    Raises:
        ValueError: an argument is out of its range.
    """

    split: str
    """`train`, `val` or `test`."""
    batch_size: Annotated[int, Ge(1)]
    """Samples per batch on this rank. All ranks together take `batch_size * world_size` samples per step."""
    device: str | torch.device
    """Where batches go, such as `cpu` or `cuda`."""
    seed: Annotated[int, Ge(0)]
    """Decides the order of samples, together with the epoch."""
    rank: Annotated[int, Ge(0)]
    """Index of this process among the `world_size` processes."""
    world_size: Annotated[int, Ge(1)]
    """Processes that share an epoch."""
    shuffle: bool
    """Whether each epoch has an order of its own; otherwise samples come in the order of the shards."""
    drop_last: bool
    """Leave out the last global batch if it is not full. Without it every rank still makes the same number of batches;
    the last ones may differ in size by one sample, or be empty."""
    window: Annotated[int, Ge(1)] | None
    """Samples that are shuffled together; None for all, the best shuffle. With a smaller window the shards are
    shuffled, and then the samples within each window of shards, so that only three windows' shards are needed at a
    time, on the disk and in memory. Ignored without `shuffle`."""
    repeat_threshold: float | None
    """Repeat samples of each class whose share of the split is below this, by the factor sqrt(threshold / share); see
    `loader.repeat`. Above 0 and at most 1. The epoch stays as long. None takes each sample once."""

    def __post_init__(self) -> None:
        check_arguments(self)
        if self.repeat_threshold is not None and not 0 < self.repeat_threshold <= 1:
            raise ValueError(f"repeat_threshold should be above 0 and at most 1 and is {self.repeat_threshold!r}")
        if self.repeat_threshold is not None and not self.shuffle:
            raise ValueError("repeat_threshold needs shuffle=True, since repeated samples have no order of their own")
        if self.rank >= self.world_size:
            raise ValueError(f"rank should be below world_size, and is {self.rank} of {self.world_size}")
