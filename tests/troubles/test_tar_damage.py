"""Indexed tars that change afterwards: the advice never costs the user the only copy of a tar.

No public report: a new user of `shards index` was told to remove the folder of the tars.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from food101_fast.errors import UserError
from food101_fast.loader import ShardLoader
from food101_fast.shards import ShardSet
from food101_fast.shards.manifest import read_manifest
from food101_fast.shards.verify import verify
from food101_fast.storage import LocalFolder
from tests.conftest import flip
from tests.troubles.tars import index, pairs, write_tar

ADVICE = "fetch damaged tars again, then run `shards index ... --replace`"
Run = Callable[..., tuple[int, str, str]]


def shorten(tar: Path) -> None:
    """Keep the first half of a tar."""
    tar.write_bytes(tar.read_bytes()[: tar.stat().st_size // 2])


def change_sample(tar: Path) -> None:
    """Change a byte of the first image."""
    flip(tar, 512 + 300)


def change_index(tar: Path) -> None:
    """Change a byte of the index."""
    flip(tar.with_name("train.index.npy"), 150)


@pytest.mark.parametrize("damage", [shorten, Path.unlink, change_sample, change_index])
def test_the_advice_keeps_the_tars(tmp_path: Path, command: Run, damage: Callable[[Path], None]) -> None:
    tar = write_tar(tmp_path / "train.tar", pairs(12))
    index(tar)
    damage(tar)
    with pytest.raises(UserError) as error:
        list(ShardLoader(tmp_path, split="train", batch_size=4))
    assert str(error.value).endswith(f"; {ADVICE}")
    code, out, _ = command("shards", "verify", str(tmp_path))
    assert code == 1
    assert out.splitlines()[-1].endswith(f"; {ADVICE}")
    assert "remove" not in out


@pytest.mark.parametrize("val_fraction", [None, 0.3])
def test_a_truncated_tar_is_one_problem(tmp_path: Path, val_fraction: float | None) -> None:
    tar = write_tar(tmp_path / "train.tar", pairs(12))
    index(tar, val_fraction=val_fraction)
    shorten(tar)
    (problem,) = verify(LocalFolder(tmp_path))
    assert problem.startswith("train.tar: has ")
    assert problem.endswith(", so 4 of its 12 samples are missing")


def test_another_tar_of_that_name_is_two_problems(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "train.tar", pairs(12))
    index(tar)
    tar.write_bytes(b"\1" * tar.stat().st_size)
    first, second = verify(LocalFolder(tmp_path))
    assert "its hash differs" in first
    assert "all of its 12 samples have other bytes" in second


@pytest.mark.parametrize("damage", [lambda content: content[:-2], lambda content: content.replace(b"crop", b"squash")])
def test_a_damaged_manifest_is_removed_alone(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    tar = write_tar(tmp_path / "train.tar", pairs(12))
    index(tar)
    manifest = tmp_path / "manifest.json"
    manifest.write_bytes(damage(manifest.read_bytes()))
    with pytest.raises(UserError, match=r"remove this manifest\.json, and index the tars again with `shards index"):
        read_manifest(LocalFolder(tmp_path))
    manifest.unlink()
    index(tar, replace=True)
    assert len(ShardSet.open(tmp_path).split("train")) == 12
