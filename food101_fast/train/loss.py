"""What a training step minimizes: cross-entropy, binary cross-entropy or focal loss, and their forms for rare classes.

Every loss is a mean over samples, and none divides by a number that differs from batch to batch. So the chunks of
gradient accumulation, and the batches of several ranks, add up to the loss of the whole batch. All class weights and
shifts are tensors on the device, and nothing waits for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from food101_fast.errors import UserError
from food101_fast.runs.recipe import ClassWeights, Recipe


class CrossEntropy(nn.Module):
    """Cross-entropy of the softmax.

    With class weights w, and q the shares of the classes after label smoothing, the loss of a sample is
    -sum_c w_c q_c log p_c, as in torch. torch's own mean divides by the sum of the weights in the batch, though, which
    differs from chunk to chunk and from rank to rank. Here the mean is over samples.

    Args:
        label_smoothing: share of each label that is spread evenly over all classes.
        weights: of the classes, floating (classes,); None for 1 each.
    """

    weights: Tensor | None

    def __init__(self, label_smoothing: float = 0.0, weights: Tensor | None = None) -> None:
        super().__init__()
        self._smoothing = label_smoothing
        self.register_buffer("weights", weights)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean loss in nats, a scalar.

        Args:
            logits: floating (N, classes).
            labels: int64 (N,), or floating (N, classes) with sum 1.
        """
        if self.weights is None:
            return functional.cross_entropy(logits, labels, label_smoothing=self._smoothing)
        total = functional.cross_entropy(
            wide(logits), labels, self.weights, reduction="sum", label_smoothing=self._smoothing
        )
        return total / len(labels)


class BinaryCrossEntropy(nn.Module):
    """A sigmoid and a binary cross-entropy for each class; the mean over classes and samples, as timm's default.

    Class weights multiply the whole loss of a sample, by the weight of its class (of mixed labels, by the mean of their
    weights), as in Cui et al., "Class-balanced loss based on effective number of samples", CVPR 2019, section 4.2.

    Source: Wightman et al., "ResNet strikes back", 2021, section 3; timm's `BinaryCrossEntropy`.

    Args:
        label_smoothing: share of each label that is spread evenly over all classes.
        threshold: targets above it, after smoothing and mixing, become 1 and the others 0; None keeps them.
        weights: of the classes, floating (classes,); None for 1 each.
    """

    weights: Tensor | None

    def __init__(
        self, label_smoothing: float = 0.0, threshold: float | None = None, weights: Tensor | None = None
    ) -> None:
        super().__init__()
        self._smoothing = label_smoothing
        self._threshold = threshold
        self.register_buffer("weights", weights)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean loss in nats, a scalar; the arguments are those of `CrossEntropy`."""
        logits = wide(logits)
        shares = _shares(labels, logits)
        targets = _smoothed(shares, self._smoothing)
        if self._threshold is not None:
            targets = (targets > self._threshold).to(targets.dtype)
        # Not a product of matrices, which mixed precision would round.
        of_samples = None if self.weights is None else (shares * self.weights).sum(dim=1, keepdim=True)
        return functional.binary_cross_entropy_with_logits(logits, targets, of_samples)


class Focal(nn.Module):
    """Cross-entropy in which well classified samples count less: -sum_c w_c q_c (1 - p_c)^gamma log p_c.

    p is the softmax, q the shares of the classes after label smoothing and w their weights. With gamma 0 it is the
    cross-entropy.

    Source: Lin et al., "Focal loss for dense object detection", ICCV 2017, section 3.2, for several classes.

    Args:
        gamma: how fast the loss of a sample falls with its probability; at least 0.
        label_smoothing: share of each label that is spread evenly over all classes.
        weights: of the classes, floating (classes,); None for 1 each.
    """

    weights: Tensor | None

    def __init__(self, gamma: float, label_smoothing: float = 0.0, weights: Tensor | None = None) -> None:
        super().__init__()
        self._gamma = gamma
        self._smoothing = label_smoothing
        self.register_buffer("weights", weights)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean loss in nats, a scalar; the arguments are those of `CrossEntropy`."""
        log_p = functional.log_softmax(wide(logits), dim=1)
        # Not 1 - exp(log_p), which is 0 for every p near 1. At 0 itself a power below 1 has no gradient.
        rest = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny)
        shares = _smoothed(_shares(labels, log_p), self._smoothing)
        if self.weights is not None:
            shares = shares * self.weights
        return -(shares * rest**self._gamma * log_p).sum() / len(labels)


class LogitAdjusted(nn.Module):
    """Another loss, of logits to which tau * log(share of the class in the training images) is added.

    The network then learns logits without that term, which suit a test in which all classes are equally frequent.
    Validation and inference use them as they are.

    Source: Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, section 5, equation 10.

    Args:
        loss: of a softmax.
        counts: training images of each class; none may be 0.
        tau: factor; 1 is right for calibrated networks.
    """

    shift: Tensor

    def __init__(self, loss: nn.Module, counts: Sequence[int], tau: float) -> None:
        super().__init__()
        self._loss = loss
        numbers = torch.tensor(counts, dtype=torch.float64)
        self.register_buffer("shift", (tau * (numbers / numbers.sum()).log()).float())

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean loss in nats, a scalar; the arguments are those of `CrossEntropy`."""
        return cast(Tensor, self._loss(wide(logits) + self.shift, labels))


def build_loss(recipe: Recipe, class_counts: Sequence[int] | None = None) -> nn.Module:
    """The loss of a recipe, on the CPU: it maps logits (N, classes) and labels to a mean over the samples.

    Args:
        recipe: its `loss`, `label_smoothing` and `class_balance`.
        class_counts: training images of each class; needed by the class balances `weights` and `logit-adjust`.

    Raises:
        ValueError: the class counts are needed and missing, or logits can't be adjusted since a count is 0.
    """
    weights = None
    if recipe.class_balance in ("weights", "logit-adjust") and not class_counts:
        raise ValueError(f"class balance {recipe.class_balance} needs class_counts")
    counts = tuple(class_counts or ())
    if recipe.class_balance == "weights":
        weights = class_weights(counts, recipe.class_weights, recipe.effective_beta)
    loss: nn.Module
    if recipe.loss == "bce":
        loss = BinaryCrossEntropy(recipe.label_smoothing, recipe.bce_threshold, weights)
    elif recipe.loss == "focal":
        loss = Focal(recipe.focal_gamma, recipe.label_smoothing, weights)
    else:
        loss = CrossEntropy(recipe.label_smoothing, weights)
    if recipe.class_balance == "logit-adjust":
        if not all(counts):
            raise ValueError("class balance logit-adjust needs training images of every class")
        loss = LogitAdjusted(loss, counts, recipe.logit_tau)
    return loss


def check_counts(recipe: Recipe, classes: Sequence[str], counts: Sequence[int]) -> None:
    """Refuse to adjust logits by the frequency of a class that has no training images.

    Args:
        recipe: what to compute.
        classes: their names.
        counts: training images of each class; empty if they are not known.

    Raises:
        UserError: there is such a class.
    """
    if recipe.class_balance != "logit-adjust":
        return
    missing = [name for name, count in zip(classes, counts, strict=False) if not count]
    if missing:
        more = f" and {len(missing) - 1} other classes" if len(missing) > 1 else ""
        raise UserError(
            f"--class-balance logit-adjust needs training images of every class, and {missing[0]}{more} has none; "
            "prepare the images without it (--exclude-classes), or use --class-balance weights"
        )


def class_weights(counts: Sequence[int], how: ClassWeights, beta: float) -> Tensor:
    """Weights of classes, such that their mean over the training images is 1; a class without images has weight 0.

    `inverse` is 1 / n for a class of n images. `effective` is 1 / E with the effective number of images
    E = (1 - beta^n) / (1 - beta): beta 0 weights all classes alike, beta near 1 is `inverse`.

    Source of `effective`: Cui et al., "Class-balanced loss based on effective number of samples", CVPR 2019, section 3.
    They normalize the mean over classes to 1, which changes the loss's scale with the imbalance.

    Args:
        counts: training images of each class; at least one is above 0.
        how: inverse or effective.
        beta: from 0 to below 1.

    Returns:
        float32 (classes,).
    """
    numbers = torch.tensor(counts, dtype=torch.float64)
    some = numbers.clamp(min=1)
    sizes = some if how == "inverse" else (1 - torch.tensor(beta, dtype=torch.float64) ** some) / (1 - beta)
    rarity = torch.where(numbers > 0, 1 / sizes, 0.0)
    return (rarity * numbers.sum() / (rarity * numbers).sum()).float()


def wide(logits: Tensor) -> Tensor:
    """Logits in at least float32: mixed precision gives half of that."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _shares(labels: Tensor, like: Tensor) -> Tensor:
    """Labels as shares of classes, (N, classes), in the dtype of `like`, which has that shape."""
    return (functional.one_hot(labels, like.shape[1]) if labels.ndim == 1 else labels).to(like.dtype)


def _smoothed(shares: Tensor, smoothing: float) -> Tensor:
    return shares * (1 - smoothing) + smoothing / shares.shape[1] if smoothing else shares
