"""Distillation: a network also learns the probabilities that trained runs, its teacher, give the same images.

Source: Hinton et al., "Distilling the knowledge in a neural network", 2015.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from food101_fast.errors import UserError
from food101_fast.runs.checkpoint import weights_hash
from food101_fast.runs.folder import RunFolder
from food101_fast.runs.recipe import Recipe
from food101_fast.runs.results import best_epoch, read_metrics
from food101_fast.runs.run import Run, TeacherRun, load_model, read_run
from food101_fast.train.loss import wide
from food101_fast.transforms import InputSpec
from food101_fast.transforms.normalize import IMAGENET


@dataclass(frozen=True, kw_only=True, eq=False)
class Member:
    """A trained run that teaches, alone or with others."""

    network: nn.Module
    """In evaluation mode; maps images of its own to logits (N, classes)."""
    size: int
    """Height and width of the images that it was trained on, in pixels."""
    inputs: InputSpec
    """Normalization and interpolation of these images."""
    run: TeacherRun
    """What the student's run remembers of it."""
    line: str
    """Folder, model and accuracy, for the terminal."""


class Teacher(nn.Module):
    """Mean probabilities of one or several trained networks, at a temperature.

    It sees the student's images after their augmentation: resized if its networks were trained at another size, and
    normalized in another way if they need that. It is always in evaluation mode, and its weights never change.

    Args:
        members: of the ensemble, at least one.
        temperature: divides the logits before the softmax.
        inputs: how the student's images are normalized.

    Attributes:
        runs: what the student's run remembers, in the order of the members.
        lines: a line for the terminal about each member.
    """

    def __init__(self, members: Sequence[Member], *, temperature: float, inputs: InputSpec = IMAGENET) -> None:
        super().__init__()
        self.runs = tuple(member.run for member in members)
        self.lines = tuple(member.line for member in members)
        self._temperature = temperature
        self._networks = nn.ModuleList(_Adapted(member, inputs) for member in members)
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor:
        """Probabilities of the classes.

        Args:
            images: of the student, normalized, floating (N, 3, h, w).

        Returns:
            float32 (N, classes).
        """
        each = [(network(images).float() / self._temperature).softmax(dim=1) for network in self._networks]
        return torch.stack(each).mean(dim=0)


class _Adapted(nn.Module):
    """A network that takes the student's images."""

    _scale: Tensor
    _shift: Tensor

    def __init__(self, member: Member, seen: InputSpec) -> None:
        super().__init__()
        self._network = member.network
        self._size, self._mode = member.size, member.inputs.interpolation
        wanted = member.inputs
        self._is_same = (seen.mean, seen.std) == (wanted.mean, wanted.std)
        # (x * std + mean - wanted mean) / wanted std
        mean, std, wanted_mean, wanted_std = (
            torch.tensor(numbers, dtype=torch.float64)[:, None, None]
            for numbers in (seen.mean, seen.std, wanted.mean, wanted.std)
        )
        self.register_buffer("_scale", (std / wanted_std).float())
        self.register_buffer("_shift", ((mean - wanted_mean) / wanted_std).float())

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-1] != self._size:
            side = (self._size, self._size)
            images = functional.interpolate(images, side, mode=self._mode, align_corners=False, antialias=True)
            images = images.contiguous(memory_format=torch.channels_last)
        if not self._is_same:
            images = images * self._scale + self._shift
        logits: Tensor = self._network(images)
        return logits


def distilled(loss: Tensor, logits: Tensor, taught: Tensor, *, temperature: float, weight: float) -> Tensor:
    """The loss of a student: (1 - weight) * loss + weight * T^2 * KL(teacher || student), a mean over the samples.

    Both distributions are at the temperature T. T^2 keeps the gradients of the second term as large as those of the
    first, whatever T is (Hinton et al., section 2).

    Args:
        loss: of the labels, a scalar.
        logits: of the student, floating (N, classes).
        taught: probabilities of the teacher at that temperature, floating (N, classes).
        temperature: T, above 0.
        weight: share of the second term, from 0 to 1.
    """
    log_p = functional.log_softmax(wide(logits) / temperature, dim=1)
    divergence = functional.kl_div(log_p, taught.to(log_p.dtype), reduction="batchmean")
    return (1 - weight) * loss + weight * temperature**2 * divergence


def load_teacher(
    recipe: Recipe, classes: Sequence[str], device: torch.device, inputs: InputSpec = IMAGENET
) -> Teacher | None:
    """The teacher of a recipe: the best checkpoints of its runs, on a device; None if it has none.

    Args:
        recipe: what to compute.
        classes: names of the student's classes.
        device: to compute on.
        inputs: how the student's images are normalized.

    Raises:
        UserError: a run is missing or damaged, or was trained on other classes.
    """
    if not recipe.teacher:
        return None
    members = [_member(folder, classes) for folder in recipe.teacher]
    teacher = Teacher(members, temperature=recipe.teacher_temperature, inputs=inputs)
    return teacher.to(device, memory_format=torch.channels_last)  # type: ignore[no-any-return, call-overload]


def read_teacher(folder: str) -> Run:
    """The description of a run that should teach.

    Raises:
        UserError: the folder has no run, or its description is damaged.
    """
    if not RunFolder(Path(folder)).recipe.is_file():
        raise UserError(
            f"--teacher {folder} has no run; give the folder of a trained run, and if it has moved, its new folder "
            "(with --resume too)"
        )
    return read_run(Path(folder))


def _member(folder: str, classes: Sequence[str]) -> Member:
    run, path = read_teacher(folder), Path(folder)
    if run.classes != tuple(classes):
        raise UserError(
            f"--teacher {folder} was trained on other classes than those of the shards ({_difference(run, classes)}); "
            "give runs that were trained on the same classes"
        )
    rows = read_metrics(path)
    accuracy = f", val top-1 {best_epoch(rows).val_top1:.2f}" if rows else ""
    return Member(
        network=load_model(path, run),
        size=run.recipe.image_size,
        inputs=run.inputs,
        run=TeacherRun(run=folder, weights=weights_hash(path, "best")),
        line=f"teacher: {folder} ({run.recipe.model}{accuracy})",
    )


def _difference(run: Run, classes: Sequence[str]) -> str:
    """How a run's classes differ from others."""
    if len(run.classes) != len(classes):
        return f"{len(run.classes)} and not {len(classes)}"
    number, (own, other) = next(
        (number, names) for number, names in enumerate(zip(run.classes, classes, strict=True)) if names[0] != names[1]
    )
    return f"class {number} is {own} and not {other}"


def check_same_teacher(folder: Path, stored: Sequence[TeacherRun], teacher: Teacher | None) -> None:
    """Refuse to resume a run with another teacher; the teacher's folders may have moved.

    Args:
        folder: of the run.
        stored: its teachers when it was started.
        teacher: that it would be resumed with.

    Raises:
        UserError: there are more or fewer runs, or one has other weights.
    """
    now = () if teacher is None else teacher.runs
    if len(now) != len(stored):
        names = " ".join(one.run for one in stored) or "None"
        raise UserError(f"{folder} was trained with --teacher {names}; give the same runs, or leave --teacher out")
    for before, after in zip(stored, now, strict=True):
        if before.weights != after.weights:
            raise UserError(
                f"{folder} can't be resumed: the best checkpoint of its teacher {after.run} has other weights now; "
                "give a copy from before to --teacher, or train a new run"
            )
