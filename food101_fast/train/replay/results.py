"""What a replayed step shows: the content of `replay.json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Draws = dict[str, dict[str, Any]]
"""Parameters of a sample's transforms, by the transform's number and name, under torchvision's names."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A sample of the batch, in the batch's order."""

    id: int
    """Global sample id within the split train."""
    key: str
    """Its key in the shards, such as `apple_pie/1005649`."""
    label: str
    """Name of its class."""
    target: dict[str, float]
    """Share of each class in what the loss was given; one class unless images are mixed."""
    predicted: str
    """The most probable class."""
    cross_entropy: float
    """Of its own prediction and target, in nats; without weights of classes and the like."""
    augmentation: Draws
    """What was drawn for it."""


@dataclass(frozen=True, kw_only=True)
class LayerNorm:
    """Gradient of a layer group."""

    name: str
    """Common beginning of the names of its parameters."""
    parameters: int
    """Number of weights that are trained; 0 if it is frozen."""
    gradient_norm: float | None
    """None if it is frozen."""


@dataclass(frozen=True, kw_only=True)
class NonFinite:
    """Where NaN or Inf is. All is empty if the step is sound."""

    weights: tuple[str, ...]
    """Weights and buffers before the step."""
    images: tuple[int, ...]
    """Ids of samples whose augmented image is not finite."""
    first_layer: str | None
    """The first module whose output is not finite, and its class."""
    samples: tuple[int, ...]
    """Ids of samples whose cross-entropy is not finite."""
    gradients: tuple[str, ...]
    """Weights whose gradient is not finite, from the input to the head."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A step, as computed again."""

    loss: float
    """Mean loss of the batch, as in the run."""
    top1: float
    """Accuracy in the batch, between 0 and 1."""
    gradient_norm: float | None
    """Over all trained weights, without loss scaling and before clipping; None if nothing is trained."""
    layers: tuple[LayerNorm, ...]
    """Layer groups from the input to the head."""
    nonfinite: NonFinite
    samples: tuple[Sample, ...]


@dataclass(frozen=True, kw_only=True)
class Replay:
    """The content of `replay.json`. A number that is NaN or Inf is null there."""

    run: str
    """Folder of the run."""
    step: int
    """Number of the step, from 0: so many steps were finished before it."""
    epoch: int
    """Counted from 1."""
    step_of_epoch: int
    """Counted from 1."""
    steps_per_epoch: int
    checkpoint: str | None
    """The checkpoint that was trained on from; None: the initial weights."""
    steps_before: int
    """Steps that were trained between it and this one."""
    learning_rate: float
    """Of the head."""
    image_size: int
    """Height and width of the augmented images, in pixels."""
    differences: tuple[str, ...]
    """Why the numbers may differ from those of the run; empty if they are the same to the last bit."""
    measured: Measured


def summary(replay: Replay) -> list[str]:
    """Lines for the terminal."""
    measured, found = replay.measured, replay.measured.nonfinite
    start = f"checkpoint {replay.checkpoint}" if replay.checkpoint else "the initial weights"
    lines = [
        f"step {replay.step}: epoch {replay.epoch}, step {replay.step_of_epoch} of {replay.steps_per_epoch}, "
        f"{replay.image_size} px, learning rate {replay.learning_rate:.3g}; "
        f"{_steps(replay.steps_before)} after {start}",
        f"loss {measured.loss:.6g}, top-1 {measured.top1:.4f}, gradient norm before clipping "
        f"{_norm(measured.gradient_norm)}",
        *(f"  {_norm(layer.gradient_norm):>12}  {layer.name}" for layer in measured.layers),
    ]
    ids = ", ".join(map(str, found.samples[:8])) + (", ..." if len(found.samples) > 8 else "")
    lines += [f"not finite before the step: {', '.join(found.weights[:3])}"] if found.weights else []
    lines += [f"augmented images that are not finite: {len(found.images)}"] if found.images else []
    lines += [f"first layer whose output is not finite: {found.first_layer}"] if found.first_layer else []
    lines += [f"samples whose loss is not finite: {len(found.samples)} (ids {ids})"] if found.samples else []
    if found.gradients:
        lines.append(
            f"gradients that are not finite: {len(found.gradients)}, nearest to the head {found.gradients[-1]}"
        )
    return lines + [f"note: {text}" for text in replay.differences]


def _steps(count: int) -> str:
    return f"{count} step" if count == 1 else f"{count} steps"


def _norm(value: float | None) -> str:
    return "frozen" if value is None else f"{value:.6g}"
