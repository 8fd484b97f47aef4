"""BatchNorm over one image is refused before training starts, and leaves no folder behind.

Public reports: pytorch/pytorch#4534 and fastai/fastai#1352 ("Expected more than 1 value per channel when training", in
the middle of a run).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from food101_fast.errors import UserError
from food101_fast.runs.recipe import Recipe
from food101_fast.train.batchnorm import refuse_single_images

ONE = Recipe(model="shufflenet_v2_x0_5", weights="none", image_size=32, epochs=1, batch_size=4)


def test_one_image_is_refused_before_anything_is_written(
    tiny_path: Path, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    common = ["--model", "shufflenet_v2_x0_5", "--weights", "none", "--image-size", "32", "--epochs", "1"]
    common += ["--batch-size", "4", "--accumulate", "4"]
    run = tmp_path / "run"
    code, _, err = command("train", "--shards", str(tiny_path), "--run", str(run), "--device", "cpu", *common)
    message = err.splitlines()[-1]
    assert code == 2
    assert "gives the BatchNorm layers of shufflenet_v2_x0_5 one image at a time" in message
    assert "use --batch-size 8 or more or a smaller --accumulate" in message
    assert not run.exists()


def test_ranks_share_a_batch() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    refuse_single_images(model, ONE, 2)
    with pytest.raises(UserError, match=r"--batch-size 4, divided by 4 ranks, .* use --batch-size 8 or more$"):
        refuse_single_images(model, ONE, 4)
    refuse_single_images(model, replace(ONE, sync_batchnorm=True), 4)
    with pytest.raises(UserError, match=r"divided by 2 ranks and --accumulate 2, .* or a smaller --accumulate$"):
        refuse_single_images(model, replace(ONE, accumulate=2), 2)


def test_other_models_take_one_image() -> None:
    refuse_single_images(nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4)), replace(ONE, accumulate=4), 1)
