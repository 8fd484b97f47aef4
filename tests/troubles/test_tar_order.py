"""Members of a sample anywhere in a tar, as `tar -cf` without `--sort=name` writes them.

Reports: ray#65044, webdataset#11 (samples whose members do not follow each other).
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from food101_fast.images import clean
from food101_fast.shards import ShardSet
from food101_fast.shards.verify import verify
from food101_fast.storage import LocalFolder
from tests.troubles.tars import RULES, image, index, labels, pairs, write_tar


@pytest.mark.parametrize("order", ["labels first", "images first", "any"])
def test_members_are_joined_by_key(tmp_path: Path, order: str) -> None:
    members = pairs(30, name="d/{}")
    if order == "any":
        random.Random(1).shuffle(members)
    else:
        members.sort(key=lambda member: member[0].endswith("cls") == (order == "images first"))
    manifest = index(write_tar(tmp_path / "train.tar", members))
    assert manifest.rejects == {}
    numbers = [int(name[2:-4]) for name, _ in members if name.endswith("jpg")]
    assert labels(tmp_path) == [str(number % 3) for number in numbers]
    split = ShardSet.open(tmp_path).split("train")
    for sample, number in enumerate(numbers):
        assert np.array_equal(split[sample], clean(image(number, "jpg"), RULES).pixels)
    assert not list(verify(LocalFolder(tmp_path)))
