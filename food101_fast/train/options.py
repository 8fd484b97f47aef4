"""How a run is kept and shown, as opposed to what it computes: no option here changes a number."""

from __future__ import annotations

from dataclasses import dataclass

from food101_fast.errors import UserError


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Checkpoints and logs of a run."""

    checkpoint_steps: int | None = None
    """Save a checkpoint every so many steps, beside those after each epoch."""
    checkpoint_minutes: float | None = 10.0
    """Save a checkpoint when so many minutes have passed since the last one; None is never."""
    keep: int = 0
    """Checkpoints of whole epochs to keep beside best and last: the newest so many, as checkpoints/epoch-0001, ..."""
    log_steps: int | None = None
    """Read loss and accuracy from the device every so many steps, which waits for it; by default 1 on the CPU and 25 on
    CUDA."""
    tensorboard: bool = False
    """Write event files for TensorBoard into the run's folder (extra tensorboard)."""
    most_skipped: int = 20
    """Stop when so many steps in a row had no finite gradient; fewer are skipped."""

    def __post_init__(self) -> None:
        for flag, value, least in (
            ("--checkpoint-steps", self.checkpoint_steps, 1),
            ("--log-steps", self.log_steps, 1),
            ("--keep", self.keep, 0),
            ("--most-skipped", self.most_skipped, 1),
        ):
            if value is not None and value < least:
                raise UserError(f"{flag} {value} should be at least {least}")
        if self.checkpoint_minutes is not None and not self.checkpoint_minutes > 0:
            raise UserError(f"--checkpoint-minutes {self.checkpoint_minutes} should be above 0")
