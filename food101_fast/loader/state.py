"""The saved state of a loader: the order of samples that it follows, and how far it came."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from food101_fast.documents import convert
from food101_fast.errors import UserError

STATE_VERSION = 2

_POSITION = ("epoch", "step")


@dataclass(frozen=True, kw_only=True)
class LoaderState:
    """What `ShardLoader.state_dict` returns, as a plain dict with these keys in this order."""

    version: int = STATE_VERSION
    """Of this format."""
    data: str
    """Digest of the data set's manifest."""
    split: str
    global_batch: int
    """Samples per step over all ranks."""
    seed: int
    shuffle: bool
    window: int | None
    """Samples that are shuffled together; None for all."""
    drop_last: bool
    epoch: int
    """Of the next batch, or of the batches that were taken last if that epoch is not over."""
    step: int
    """Batches of that epoch that were taken."""
    repeat_threshold: float | None = None
    """Samples of classes with a smaller share are repeated; None, as in states from before, takes each sample once."""

    def __post_init__(self) -> None:
        if self.epoch < 0 or self.step < 0:
            raise ValueError(f"epoch {self.epoch} and step {self.step} should be at least 0")


def read_state(state: dict[str, Any], own: LoaderState, steps: int) -> LoaderState:
    """Read a saved state, and check that it belongs to the same order of samples.

    Args:
        state: what `state_dict` returned.
        own: the state of the loader that shall continue.
        steps: batches in an epoch of that loader.

    Raises:
        UserError: the state is damaged, or belongs to another order.
    """
    saved = convert(state, LoaderState, where="the loader's saved state", advice="start the epoch again with set_epoch")
    for name in (field.name for field in fields(LoaderState) if field.name not in _POSITION):
        theirs, ours = getattr(saved, name), getattr(own, name)
        if theirs != ours:
            raise UserError(
                f"the loader's saved state has {name} {theirs!r} and this loader has {ours!r}; "
                "continue with the same shards, global batch, seed, window and repeat threshold"
            )
    if saved.step > steps:
        raise UserError(
            f"the loader's saved state has step {saved.step}, and an epoch has {steps} steps; the state is damaged: "
            "start the epoch again with set_epoch"
        )
    return saved
