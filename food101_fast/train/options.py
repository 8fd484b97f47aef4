"""How a run is kept and shown, as opposed to what it computes: no option here changes a number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt

from food101_fast.limits import check_limits


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Checkpoints and logs of a run."""

    checkpoint_steps: Annotated[int, Ge(1)] | None = None
    """Save a checkpoint every so many steps, beside those after each epoch."""
    checkpoint_minutes: Annotated[float, Gt(0)] | None = 10.0
    """Save a checkpoint when so many minutes have passed since the last one; None is never."""
    keep: Annotated[int, Ge(0)] = 0
    """Checkpoints of whole epochs to keep beside best and last: the newest so many, as checkpoints/epoch-0001, ..."""
    log_steps: Annotated[int, Ge(1)] | None = None
    """Read loss and accuracy from the device every so many steps, which waits for it; by default 1 on the CPU and 25 on
    CUDA."""
    tensorboard: bool = False
    """Write event files for TensorBoard into the run's folder (extra tensorboard)."""
    most_skipped: Annotated[int, Ge(1)] = 20
    """Stop when so many steps in a row had no finite gradient; fewer are skipped."""

    def __post_init__(self) -> None:
        check_limits(self)
