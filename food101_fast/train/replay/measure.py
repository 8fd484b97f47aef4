"""A step looked at from all sides: what was drawn, the loss of each sample, gradients, and where NaN or Inf begins."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from food101_fast.loader import Batch
from food101_fast.shards.split import Split
from food101_fast.train.replay.results import Draws, LayerNorm, Measured, NonFinite, Sample
from food101_fast.train.step import TrainStep
from food101_fast.transforms.base import Params, PerSampleTransform, rows


def measure(step: TrainStep, batch: Batch, epoch: int, split: Split, classes: Sequence[str]) -> tuple[Measured, Tensor]:
    """Compute a step up to its gradients; the weights stay as they are.

    Args:
        step: prepared, not compiled, not a CUDA graph.
        batch: of the step.
        epoch: from 0.
        split: that the batch is from.
        classes: names of the classes.

    Returns:
        What was found, and the images that the model saw: normalized, float (N, 3, h, w).
    """
    named = [*step.model.named_parameters(), *step.model.named_buffers()]
    weights = tuple(name for name, tensor in named if not _is_finite(tensor))
    with _draws(step, len(batch.ids)) as drawn:
        images, labels = step.augment(batch, epoch)
    with _watched(step.model) as watch:
        loss, correct = step.backward(images, labels)
    step.precision.scaler.unscale_(step.optimizer)
    gradients = {name: p.grad for name, p in step.model.named_parameters() if p.grad is not None and p.requires_grad}
    logits = torch.cat(watch.logits).float()
    target = labels if labels.ndim == 2 else functional.one_hot(labels, len(classes)).float()
    each = functional.cross_entropy(logits, target, reduction="none", label_smoothing=step.recipe.label_smoothing)
    ids = batch.ids.tolist()
    broken = [not math.isfinite(value) for value in each.tolist()]
    found = NonFinite(
        weights=weights,
        images=tuple(i for i, image in zip(ids, images, strict=True) if not _is_finite(image)),
        first_layer=watch.first,
        samples=tuple(i for i, is_broken in zip(ids, broken, strict=True) if is_broken),
        gradients=tuple(name for name, gradient in gradients.items() if not _is_finite(gradient)),
    )
    measured = Measured(
        loss=float(loss),
        top1=float(correct) / len(ids),
        gradient_norm=_norm(list(gradients.values())),
        layers=tuple(_layer(names, gradients) for names in step.layers),
        nonfinite=found,
        samples=_samples(batch, target, logits, each, drawn, split, classes),
    )
    return measured, images


def _samples(
    batch: Batch,
    target: Tensor,
    logits: Tensor,
    each: Tensor,
    drawn: list[Draws],
    split: Split,
    classes: Sequence[str],
) -> tuple[Sample, ...]:
    columns = zip(
        batch.ids.tolist(), batch.labels.tolist(), target.tolist(), logits.argmax(dim=1).tolist(), each.tolist(), drawn,
        strict=True,
    )  # fmt: skip
    return tuple(
        Sample(
            id=sample,
            key=split.key(sample),
            label=classes[label],
            target={classes[i]: share for i, share in enumerate(shares) if share},
            predicted=classes[predicted],
            cross_entropy=loss,
            augmentation=draws,
        )
        for sample, label, shares, predicted, loss, draws in columns
    )


@contextlib.contextmanager
def _draws(step: TrainStep, samples: int) -> Iterator[list[Draws]]:
    """A context that notes what the preset draws for each sample."""
    drawn: list[Draws] = [{} for _ in range(samples)]

    def note(index: int, transform: PerSampleTransform, params: Params) -> None:
        for of_sample, row in zip(drawn, rows(params), strict=True):
            plain = {name: value.tolist() if isinstance(value, Tensor) else value for name, value in row.items()}
            of_sample[f"{index} {type(transform).__name__}"] = plain

    step.preset.observer = note
    try:
        yield drawn
    finally:
        step.preset.observer = None


class _Watch:
    """What the modules of a model return in a forward pass."""

    def __init__(self) -> None:
        self.first: str | None = None
        self.logits: list[Tensor] = []

    def hook(self, name: str, is_model: bool) -> Any:
        def note(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            if not isinstance(output, Tensor):
                return
            if self.first is None and not _is_finite(output):
                self.first = f"{name or 'the model'} ({type(module).__name__})"
            if is_model:
                self.logits.append(output.detach())

        return note


@contextlib.contextmanager
def _watched(model: nn.Module) -> Iterator[_Watch]:
    """A context in which the outputs of all modules are looked at. A module's own come after those inside it."""
    watch = _Watch()
    handles = [
        module.register_forward_hook(watch.hook(name, module is model)) for name, module in model.named_modules()
    ]
    try:
        yield watch
    finally:
        for handle in handles:
            handle.remove()


def _layer(names: Sequence[str], gradients: dict[str, Tensor]) -> LayerNorm:
    trained = [gradients[name] for name in names if name in gradients]
    modules = [name.split(".")[:-1] for name in names]
    columns = zip(*modules, strict=False)
    common = len(list(itertools.takewhile(lambda column: len(set(column)) == 1, columns)))
    first, last = (".".join(path[: common + 1]) for path in (modules[0], modules[-1]))
    first, last = first or names[0], last or names[-1]
    return LayerNorm(
        name=first if first == last else f"{first} to {last}",
        parameters=sum(gradient.numel() for gradient in trained),
        gradient_norm=_norm(trained),
    )


def _norm(gradients: list[Tensor]) -> float | None:
    return float(torch.nn.utils.get_total_norm(gradients)) if gradients else None


def _is_finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())
