"""What is asked of a library of backbones: a network's name, and how it is built."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A network without its weights and its head."""

    name: str
    """Its name, as `--model` takes it: `resnet50` of torchvision, or `timm/...`."""
    image_size: int | None = None
    """Height and width of its images, in pixels; None is its own size. Matters only where a network is built for one
    size, such as a vision transformer with a table of positions."""
    drop_path: float | None = None
    """Rate of stochastic depth in the last block, rising linearly from the first; None is the library's default."""
