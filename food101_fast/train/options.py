"""How a run is saved and shown. No option here changes what is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt

from food101_fast.limits import check_limits


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Checkpoints and logs of a run."""

    checkpoint_steps: Annotated[int, Ge(1)] | None = None
    """Also save a checkpoint every this many steps. There is always one after each epoch."""
    checkpoint_minutes: Annotated[float, Gt(0)] | None = 10.0
    """Also save a checkpoint this many minutes after the last one. None saves none by time."""
    keep: Annotated[int, Ge(0)] = 0
    """Keep the checkpoints of this many of the newest epochs, as checkpoints/epoch-0001 and so on, besides best and
    last."""
    log_steps: Annotated[int, Ge(1)] | None = None
    """Read loss and accuracy from the device every this many steps, which waits for the device. By default 1 on the CPU
    and 25 on CUDA."""
    tensorboard: bool = False
    """Write event files for TensorBoard into the run's folder (needs the extra tensorboard)."""
    most_skipped: Annotated[int, Ge(1)] = 20
    """Stop the run when the gradients of this many steps in a row are NaN or Inf. Fewer such steps are skipped."""

    def __post_init__(self) -> None:
        check_limits(self)
