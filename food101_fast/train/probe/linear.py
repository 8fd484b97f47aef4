"""Multinomial logistic regression on features, by L-BFGS over all samples, for a path of weight decays.

Features are standardized: subtracted their mean and divided by their standard deviation, over the training images. So
one range of weight decays serves every backbone. The classifier that comes out applies to the features as they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

# Rows that are computed with at a time, so that features larger than the device's memory are copied to it in blocks.
BLOCK_ROWS = 1 << 15
_ITERATIONS = 200  # at most, for one weight decay
_HISTORY = 20
_LARGEST_GRADIENT = 1e-6  # of the solution
_SMALLEST_DEVIATION = 1e-6  # of a feature, as a share of the largest one; a constant feature is only centered


@dataclass(frozen=True, kw_only=True, eq=False)
class Linear:
    """A linear classifier of features: `features @ weight.T + bias`."""

    weight: Tensor
    """float32 (classes, size)."""
    bias: Tensor
    """float32 (classes,)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Labeled:
    """Features of a split, and the labels."""

    features: Tensor
    """float32 (n, size), on the device or on the host."""
    labels: Tensor
    """int64 (n,), on the device."""

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Features and labels in blocks of rows, on the device."""
        for first in range(0, len(self.labels), BLOCK_ROWS):
            rows = slice(first, first + BLOCK_ROWS)
            yield self.features[rows].to(self.labels.device), self.labels[rows]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """How well a classifier does on a split."""

    loss: float
    """Mean cross-entropy in nats."""
    top1: float
    """Between 0 and 1."""
    top5: float
    """Share of samples whose class is among the five most probable."""


@torch.inference_mode()
def scores(linear: Linear, data: Labeled) -> Scores:
    """Loss and accuracies of a classifier."""
    sums = torch.zeros(3, dtype=torch.float64, device=data.labels.device)
    for features, labels in data.blocks():
        logits = functional.linear(features, linear.weight, linear.bias)
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        losses = functional.cross_entropy(logits, labels, reduction="none").double()
        sums += torch.stack([losses.sum(), best[:, 0].sum().double(), best.sum().double()])
    loss, top1, top5 = (sums / len(data.labels)).tolist()
    return Scores(loss=loss, top1=top1, top5=top5)


class LogisticRegression:
    """Minimizes mean cross-entropy + `decay` / 2 * the squared norm of the weights of standardized features.

    Each `fit` starts from the solution before it, which is near if the weight decays are.

    Source of the range and of standardizing: Kornblith, Shlens and Le, "Do Better ImageNet Models Transfer Better?",
    CVPR 2019, appendix on logistic regression, which chooses from a logarithmic grid on held-out images.

    Args:
        data: of training.
        classes: number of classes.
        bias: whether the classifier has a bias. Without one, features are not centered, and are divided by the
            root of their mean square.
    """

    def __init__(self, data: Labeled, classes: int, *, bias: bool = True) -> None:
        self._data = data
        device = data.labels.device
        self._mean, self._deviation = _moments(data, centered=bias)
        self._weight = torch.zeros(classes, len(self._mean), device=device, requires_grad=True)
        self._bias = torch.zeros(classes, device=device, requires_grad=bias)

    def fit(self, decay: float, stopping: Callable[[], None] = lambda: None) -> tuple[Linear, int]:
        """The best classifier, and the iterations that it took.

        Args:
            decay: above 0.
            stopping: called before each evaluation of the loss; may raise to interrupt.
        """
        parameters = [tensor for tensor in (self._weight, self._bias) if tensor.requires_grad]
        optimizer = torch.optim.LBFGS(
            parameters,
            max_iter=_ITERATIONS,
            max_eval=2 * _ITERATIONS,
            tolerance_grad=_LARGEST_GRADIENT,
            tolerance_change=1e-9,
            history_size=_HISTORY,
            line_search_fn="strong_wolfe",
        )

        def loss() -> float:
            stopping()
            optimizer.zero_grad()
            return self._backward(decay)

        with _exact_products():
            optimizer.step(loss)  # type: ignore[no-untyped-call]
        iterations = int(optimizer.state[parameters[0]]["n_iter"])
        with torch.no_grad():
            return self._folded(torch.float64), iterations

    def _backward(self, decay: float) -> float:
        """The loss; adds its gradients."""
        total = torch.zeros((), dtype=torch.float64, device=self._weight.device)
        for features, labels in self._data.blocks():
            linear = self._folded(torch.float32)
            logits = functional.linear(features, linear.weight, linear.bias)
            loss = functional.cross_entropy(logits, labels, reduction="sum") / len(self._data.labels)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        penalty = decay / 2 * self._weight.square().sum()
        penalty.backward()  # type: ignore[no-untyped-call]
        return float(total + penalty.detach())

    def _folded(self, dtype: torch.dtype) -> Linear:
        """The classifier of features as they are, computed in `dtype`."""
        weight = self._weight.to(dtype) / self._deviation.to(dtype)
        bias = self._bias.to(dtype) - weight @ self._mean.to(dtype)
        return Linear(weight=weight.float(), bias=bias.float())


def _moments(data: Labeled, *, centered: bool) -> tuple[Tensor, Tensor]:
    """What to subtract from each feature, and to divide it by, float64 (size,)."""
    rows = len(data.labels)
    mean = torch.stack([features.double().sum(dim=0) for features, _ in data.blocks()]).sum(dim=0) / rows
    mean *= centered
    squares = [(features.double() - mean).square().sum(dim=0) for features, _ in data.blocks()]
    deviation = (torch.stack(squares).sum(dim=0) / rows).sqrt()
    constant = deviation <= _SMALLEST_DEVIATION * deviation.max()
    return mean, torch.where(constant, torch.ones_like(deviation), deviation)


@contextlib.contextmanager
def _exact_products() -> Iterator[None]:
    """A context in which float32 matrices are multiplied in float32, also on CUDA: the line search compares losses."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
