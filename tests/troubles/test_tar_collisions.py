"""Two members of a tar with one key: counted and named, and refused if they are many.

Reports: webdataset#157 and webdataset#286 (dots in file names), ray#48643 (duplicate keys in a tar).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from food101_fast.errors import UserError
from food101_fast.images import clean
from food101_fast.shards import ShardSet
from food101_fast.shards.foreign.members import Member
from food101_fast.shards.foreign.samples import find_samples
from tests.troubles.tars import RULES, Members, image, index, pairs, rejects, write_tar


def test_a_name_that_repeats_is_refused_and_the_others_are_named_if_allowed(tmp_path: Path) -> None:
    members = [member for number in range(100) for member in pairs(1, first=number, name="img")]
    tar = write_tar(tmp_path / "train.tar", members)
    with pytest.raises(UserError, match=r"100 of 100 images .* lost because of their names.*train\.tar/img\.jpg"):
        index(tar)
    assert not (tmp_path / "manifest.json").exists()
    with pytest.raises(UserError, match="no sample with an image and a label"):  # each label is another
        index(tar, max_collisions=1)
    same: Members = [("img.jpg", image(number, "jpg")) for number in range(100)]
    write_tar(tar, [("img.cls", b"0"), *same])
    assert index(tar, max_collisions=1).rejects == {"key-collision": 99}
    assert {line["file"] for line in rejects(tmp_path)} == {"train.tar/img.jpg"}
    assert np.array_equal(ShardSet.open(tmp_path).split("train")[0], clean(image(0, "jpg"), RULES).pixels)


def test_few_collisions_are_listed_and_many_are_refused(tmp_path: Path) -> None:
    """The limit is 1 % of the images."""
    again: Members = [("7.jpg", image(7, "jpg"))]
    manifest = index(write_tar(tmp_path / "few" / "train.tar", pairs(99) + again))
    assert manifest.rejects == {"key-collision": 1}
    with pytest.raises(UserError, match=r"1 of 99 images.*earlier member with the key 7 and suffix jpg"):
        index(write_tar(tmp_path / "many" / "train.tar", pairs(98) + again))


@pytest.mark.parametrize("name", ["IMG_{}.edited", "scan.{:05d}"])
def test_dots_in_names_are_explained(tmp_path: Path, name: str) -> None:
    plain = pairs(10, name="IMG_{}") if name.startswith("IMG") else []
    tar = write_tar(tmp_path / "train.tar", plain + pairs(10, first=10 if not plain else 0, name=name))
    with pytest.raises(UserError, match=r"first dot of a file name.*rename the file, or give --key-ends-at last-dot"):
        index(tar)
    manifest = index(tar, key_ends_at="last-dot")
    assert manifest.rejects == {}
    assert manifest.read == 10 + len(plain) // 2
    if plain:
        manifest = index(tar, max_collisions=1, replace=True)
        assert manifest.rejects == {"key-collision": 10}
        assert sorted(line["file"] for line in rejects(tmp_path)) == [
            f"train.tar/IMG_{n}.edited.jpg" for n in range(10)
        ]


def test_each_cause_is_counted_and_has_an_example(tmp_path: Path) -> None:
    """Another end of keys would save two of these three images."""
    members: Members = [*pairs(2, name="{}"), *pairs(2, first=2, name="x{}.edited"), ("0.jpg", image(9, "jpg"))]
    with pytest.raises(UserError) as error:
        index(write_tar(tmp_path / "train.tar", members))
    message = str(error.value)
    assert "3 of 5 images" in message
    assert "2 because of a dot in the name, such as train.tar/x2.edited.jpg (" in message
    assert ", and 1 because a name or key repeats, such as train.tar/0.jpg (" in message
    assert message.endswith("give --max-collisions 1 to go on without them and have all listed in rejects.jsonl")


@pytest.mark.parametrize("label_from", ["member", "folder"])
def test_members_of_one_name_have_different_lines(tmp_path: Path, label_from: str) -> None:
    again: Members = [("a/0.jpg", image(number, "jpg")) for number in (7, 8)]
    members = [*pairs(1, name="a/{}"), *again, ("a/1.jpg", b""), ("a/1.jpg", b""), ("a/1.cls", b"0")]
    index(write_tar(tmp_path / "train.tar", members), max_collisions=1, label_from=label_from)
    lines = [line for line in rejects(tmp_path) if line["file"].endswith(".jpg")]
    assert len({tuple(line.values()) for line in lines}) == len(lines) == 4
    for number, line in enumerate(lines[:2], 2):
        assert line["detail"].startswith(f"number {number} of 3 members with this name: ")


def test_a_key_with_very_many_members_is_said_in_a_short_sentence() -> None:
    members = [Member(name=f"scan.{n}.{suffix}", offset=0, length=0) for n in range(999) for suffix in ("jpg", "cls")]
    samples, lost = find_samples(members, "first-dot")
    assert not samples
    assert len(lost) == 999
    ((sample,), lost) = find_samples([*members, Member(name="scan.png", offset=0, length=0)], "first-dot")
    assert len(lost) == 999
    assert len(sample.has) < 200


def test_masks_beside_the_image_of_a_sample_are_named_and_not_refused(tmp_path: Path) -> None:
    """webdataset's users give a sample several images on purpose; only one of them has the label."""
    masks: Members = [(f"{number}.{suffix}", image(number)) for number in range(10) for suffix in ("png", "seg.png")]
    manifest = index(write_tar(tmp_path / "train.tar", pairs(10) + masks))
    assert manifest.rejects == {"extra-image": 20}
    lines = {line["file"]: line["detail"] for line in rejects(tmp_path)}
    assert lines.keys() == {f"train.tar/{name}" for name, _ in masks}
    assert (
        "this is the member seg.png of the sample 3; the image of the sample is 3.jpg" in lines["train.tar/3.seg.png"]
    )


def test_pictures_of_one_name_and_two_formats_are_two_pictures_if_both_have_a_label(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "train.tar", pairs(3) + pairs(3, kind="png"))
    with pytest.raises(UserError, match="3 of 6 images"):
        index(tar)


def test_the_same_key_in_two_tars_is_two_samples(tmp_path: Path) -> None:
    """Many writers start to count again in each tar; webdataset reads them as different samples too."""
    write_tar(tmp_path / "train-0.tar", pairs(5))
    write_tar(tmp_path / "train-1.tar", pairs(5))
    assert index(tmp_path / "train-{0..1}.tar").splits["train"].samples == 10


def test_labels_that_differ_under_one_name_are_not_guessed(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "train.tar", [*pairs(100), ("4.cls", b"2")])
    assert index(tar).rejects == {"key-collision": 1}
    assert rejects(tmp_path)[0]["file"] == "train.tar/4.jpg"
    assert "2 members with the key 4 and suffix cls, which differ" in rejects(tmp_path)[0]["detail"]
    write_tar(tar, [*pairs(100), ("4.cls", b"1\n")])
    assert index(tar, replace=True).rejects == {}


def test_tars_joined_with_cat_are_refused(tmp_path: Path) -> None:
    """Every tar program stops at the end of the first."""
    first, second = (write_tar(tmp_path / f"{n}.tar", pairs(3, first=n)).read_bytes() for n in range(2))
    (tmp_path / "train.tar").write_bytes(first + second)
    with pytest.raises(UserError, match=r"more members after its end.*--ignore-zeros"):
        index(tmp_path / "train.tar")
    (tmp_path / "train.tar").write_bytes(first + b"what a tape drive left" * 50)
    assert index(tmp_path / "train.tar").read == 3


def test_names_that_are_not_utf8_or_have_line_breaks_are_listed(tmp_path: Path) -> None:
    odd: Members = [(name, b"no picture") for name in ("caf\udce9.jpg", "two\nlines.jpg")]
    index(
        write_tar(tmp_path / "train.tar", [*pairs(3), *odd, *((name.replace("jpg", "cls"), b"1") for name, _ in odd)])
    )
    assert {line["file"] for line in rejects(tmp_path)} == {r"train.tar/caf\xe9.jpg", r"train.tar/two\x0alines.jpg"}
