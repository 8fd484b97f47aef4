"""A model without its head: the features that the head sees, and a head that was computed from them."""

from __future__ import annotations

import torch
import xxhash
from torch import Tensor, nn

from food101_fast.errors import UserError
from food101_fast.models import head_of

# The head is applied in another way than in the model, so it may be rounded in another way: with TF32 by 1e-3.
_TOLERANCE = 1e-2


class FeatureExtractor(nn.Module):
    """A model in evaluation mode that gives the input of its head: images (N, 3, h, w) to features (N, `size`).

    Args:
        name: of the model, for the error.
        model: whose head is its last layer, on any device. It is moved with this module.
        image_size: height and width of the images, in pixels.

    Attributes:
        model: the model itself, without its head.
        head: of the model.
        size: features of an image.
        digest: XXH3-64 of the backbone's weights and buffers, as 16 hexadecimal digits.

    Raises:
        UserError: the model computes something after its head.
    """

    def __init__(self, name: str, model: nn.Module, image_size: int) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self._path, self.head = head_of(model)
        self.size = self.head.weight.shape[1]
        self.digest = _digest(model, self._path)
        images = torch.rand(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
        images = images.to(self.head.weight.device)
        with torch.inference_mode():
            logits = self.model(images).flatten(1)
            self.model.set_submodule(self._path, nn.Identity())
            features = self(images)
            is_last = features.shape == (2, self.size) and _close(self._scores(features), logits)
        if not is_last:
            raise UserError(
                f"{name} computes something after its last linear layer, so a linear classifier can't replace that; "
                "give another --model, or another --recipe"
            )

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, `size`) of images (N, 3, h, w)."""
        features: Tensor = self.model(images)
        return features.flatten(1)

    def _scores(self, features: Tensor) -> Tensor:
        """What the head makes of features (N, size): (N, classes)."""
        shape = (len(features), self.size, *[1] * (self.head.weight.ndim - 2))
        scores: Tensor = self.head(features.view(shape))
        return scores.flatten(1)

    @torch.no_grad()
    def with_head(self, weight: Tensor, bias: Tensor) -> nn.Module:
        """The model with a linear classifier as its head; afterwards this module gives logits.

        Args:
            weight: float (classes, size).
            bias: float (classes,); zeros for a head without one.
        """
        self.head.weight.copy_(weight.view(self.head.weight.shape))
        if self.head.bias is not None:
            self.head.bias.copy_(bias)
        self.model.set_submodule(self._path, self.head)
        return self.model


def _close(scores: Tensor, logits: Tensor) -> bool:
    """Whether two computations of the same scores agree up to rounding."""
    if scores.shape != logits.shape:
        return False
    scale = logits.abs().max()
    return bool((scores - logits).abs().max() <= _TOLERANCE * scale)


def _digest(model: nn.Module, head: str) -> str:
    """Hash of all weights and buffers but the head's, with their names and shapes."""
    hashed = xxhash.xxh3_64()
    for name, value in sorted(model.state_dict().items()):
        if name.rpartition(".")[0] != head:
            hashed.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            hashed.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return hashed.hexdigest()
