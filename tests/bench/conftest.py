"""A model so small that what stands around it shows."""

from __future__ import annotations

import pytest
from torch import nn

from food101_fast.bench import stages


@pytest.fixture
def tiny_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that costs next to nothing."""

    def build(name: str, weights: str, classes: int) -> nn.Module:
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, classes))

    monkeypatch.setattr(stages, "build_model", build)
