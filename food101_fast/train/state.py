"""The contents of a checkpoint's `state.pt`: all that the next step depends on, except the weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from food101_fast.documents import convert
from food101_fast.errors import UserError
from food101_fast.runs.checkpoint import StateDict
from food101_fast.runs.recipe import Recipe

STATE_VERSION = 1


@dataclass
class Progress:
    """Epochs and steps that a run has finished, and its best validation so far."""

    epoch: int = 0
    """Finished epochs."""
    step: int = 0
    """Finished steps of the whole run."""
    best_top1: float = -1.0
    """Highest validation accuracy so far, 0 to 1; -1 before the first validation."""
    epochs_since_best: int = 0
    """Epochs since the best one."""

    def finish_epoch(self, top1: float) -> bool:
        """Count an epoch with this validation accuracy; returns whether it is the best so far."""
        improved = top1 > self.best_top1
        self.epoch += 1
        self.epochs_since_best = 0 if improved else self.epochs_since_best + 1
        self.best_top1 = max(self.best_top1, top1)
        return improved

    def is_finished(self, recipe: Recipe) -> bool:
        """Whether there is nothing left to train: all epochs are finished, or patience has ended the run."""
        patience = recipe.patience or recipe.epochs
        return self.epoch >= recipe.epochs or self.epochs_since_best >= patience

    def steps_left(self, recipe: Recipe, steps_per_epoch: int) -> int:
        """Steps until the recipe's last epoch ends."""
        return recipe.epochs * steps_per_epoch - self.step


@dataclass(frozen=True, kw_only=True)
class StepState:
    """State of a `TrainStep`."""

    optimizer: StateDict
    """torch's state dict of the optimizer."""
    scaler: StateDict
    """torch's state dict of the gradient scaler."""
    averaged: int
    """Updates of the moving average so far; 0 without one."""
    streak: int
    """Skipped steps in a row, up to the last step."""
    skipped: int
    """Skipped steps in the current epoch."""


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """State of a run, in the order of the keys in `state.pt`."""

    recipe: Recipe
    """The recipe when the checkpoint was saved."""
    progress: Progress
    step: StepState
    loader: StateDict
    """State dict of the training `ShardLoader`."""
    meter: StateDict | None
    """State dict of the `EpochMeter` within an epoch; None after a whole epoch."""

    def document(self) -> StateDict:
        """As dicts, lists, numbers, strings and tensors, for `torch.save`. Tensors are not copied."""
        return {
            "version": STATE_VERSION,
            "recipe": asdict(self.recipe),
            "progress": vars(self.progress),
            "step": vars(self.step),
            "loader": self.loader,
            "meter": self.meter,
        }


def read_state(document: StateDict, folder: Path) -> TrainState:
    """The state in a checkpoint.

    Args:
        document: as `TrainState.document` made it.
        folder: of the run, for the errors.

    Raises:
        UserError: another version wrote it, or something is missing in it.
    """
    if document.get("version") != STATE_VERSION:
        raise UserError(
            f"the last checkpoint of {folder} has version {document.get('version')}, and this program resumes version "
            f"{STATE_VERSION}; use the version of food101_fast that wrote it"
        )
    advice = "replace checkpoints/last by another checkpoint of the run, or train the run again"
    return convert(document, TrainState, where=f"the last checkpoint of {folder}", advice=advice)
