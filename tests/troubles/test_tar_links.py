"""Links inside tars: followed to members of the same tar, named otherwise.

Report: mxmlnkn/ratarmount#28 (hard links in tars of data sets can't be read).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from food101_fast.images import clean
from food101_fast.shards import ShardSet
from food101_fast.shards.verify import verify
from food101_fast.storage import LocalFolder
from tests.troubles.tars import RULES, Link, Members, image, index, labels, pairs, rejects, write_tar


@pytest.mark.parametrize("kind", ["png", "npy"])
@pytest.mark.parametrize(
    "link", [Link("d/0.{}", hard=True), Link("../d/0.{}"), Link(".././d/x/../0.{}"), Link("two.{}")]
)
def test_links_to_members_are_followed(tmp_path: Path, link: Link, kind: str) -> None:
    members: Members = [
        (f"e/a.{kind}", Link(link.target.format(kind), link.hard)),
        ("e/a.cls", Link("../d/0.cls")),
        (f"e/two.{kind}", Link(f"d/0.{kind}", hard=True)),
        ("e/two.cls", b"0"),
        *pairs(4, name="d/{}", kind=kind),
    ]
    manifest = index(write_tar(tmp_path / "train.tar", members))
    assert manifest.rejects == {}
    assert manifest.encoding == ("raw" if kind == "npy" else "any")
    assert labels(tmp_path) == ["0", "0", "0", "1", "2", "0"]
    split = ShardSet.open(tmp_path).split("train")
    for sample in range(3):
        assert np.array_equal(split[sample], clean(image(0, kind), RULES).pixels)
    assert not list(verify(LocalFolder(tmp_path)))


@pytest.mark.parametrize(
    "link", [Link("/data/1.png"), Link("../outside.png"), Link("x.png"), Link("gone.png", hard=True), Link("d")]
)
def test_other_links_are_named(tmp_path: Path, link: Link) -> None:
    manifest = index(write_tar(tmp_path / "train.tar", [*pairs(4), ("x.png", link), ("x.cls", b"0")]))
    assert manifest.rejects == {"link": 1}
    (line,) = rejects(tmp_path)
    assert line["file"] == "train.tar/x.png"
    assert f"a link to {link.target}, which is not a file of this tar; make the tar with `tar -h`" in line["detail"]


def test_a_label_that_is_a_link_elsewhere_names_its_image(tmp_path: Path) -> None:
    manifest = index(write_tar(tmp_path / "train.tar", [*pairs(4), ("x.png", image(9)), ("x.cls", Link("/labels/9"))]))
    assert manifest.rejects == {"link": 1}
    (line,) = rejects(tmp_path)
    assert line["file"] == "train.tar/x.png"
    assert "its label x.cls is a link" in line["detail"]
