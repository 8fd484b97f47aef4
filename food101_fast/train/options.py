"""How a run is saved and shown. No option here changes what is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt

from food101_fast.errors import UserError
from food101_fast.limits import check_limits

Track = Literal["tensorboard", "wandb", "mlflow"]


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
    track: tuple[Track, ...] = ()
    """Also log the run to these: tensorboard (event files in the run's folder), wandb (Weights & Biases) and mlflow,
    each with the extra of its name. Their own environment variables choose server and project. One that fails does not
    stop the run."""
    track_checkpoints: bool = False
    """Also store the best checkpoint there when the run ends (wandb and mlflow)."""
    tensorboard: bool = False
    """Short for --track tensorboard."""
    most_skipped: Annotated[int, Ge(1)] = 20
    """Stop the run when the gradients of this many steps in a row are NaN or Inf. Fewer such steps are skipped."""

    def __post_init__(self) -> None:
        check_limits(self)
        if self.track_checkpoints and not {"wandb", "mlflow"} & set(self.track):
            raise UserError("--track-checkpoints needs --track wandb or mlflow, which store files; give one of those")

    @property
    def trackers(self) -> tuple[Track, ...]:
        """All trackers that were asked for, each once."""
        return tuple(dict.fromkeys((*self.track, *(("tensorboard",) if self.tensorboard else ()))))
