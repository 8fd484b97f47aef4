"""Checkpoints: weights as safetensors, the rest as plain tensors and numbers; replaced as a whole, never in part."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from food101_fast.errors import UserError

WEIGHTS_NAME = "model.safetensors"
STATE_NAME = "state.pt"


def checkpoint_folder(run: Path, name: str) -> Path:
    """Folder of checkpoint `name` (`last` or `best`) of a run."""
    return run / "checkpoints" / name


def has_checkpoint(run: Path, name: str) -> bool:
    """Whether a whole checkpoint `name` is there; a save that was cut off between its renames leaves the old one."""
    folder = checkpoint_folder(run, name)
    return folder.exists() or _replaced(folder).exists()


def _replaced(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.old")


def save_checkpoint(run: Path, name: str, model: nn.Module, state: dict[str, Any]) -> None:
    """Write a checkpoint beside the old one of that name and then put it in its place.

    Args:
        run: the run's folder.
        name: `last` or `best`.
        model: its weights go into `model.safetensors`.
        state: the rest, of tensors, numbers, strings and containers of them only, so that `weights_only=True` reads it.
    """
    folder = checkpoint_folder(run, name)
    new, old = folder.with_name(f"{name}.new"), _replaced(folder)
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    weights = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    # Not save_file: it makes files that only their owner can read.
    (new / WEIGHTS_NAME).write_bytes(safetensors.torch.save(weights))
    torch.save(state, new / STATE_NAME)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(run: Path, name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Weights and state of checkpoint `name`, on the CPU.

    Raises:
        UserError: there is none, or it is damaged.
    """
    if not has_checkpoint(run, name):
        raise UserError(f"{run} has no checkpoint {name!r}: it did not finish an epoch; train it without --resume")
    folder = checkpoint_folder(run, name)
    folder = folder if folder.exists() else _replaced(folder)
    try:
        weights = safetensors.torch.load_file(folder / WEIGHTS_NAME)
        state = torch.load(folder / STATE_NAME, map_location="cpu", weights_only=True)
    except Exception as error:  # each library raises its own kinds, and torch's run over many lines
        raise UserError(
            f"the checkpoint {folder} cannot be read ({type(error).__name__}); train the run again"
        ) from error
    return dict(weights), state
