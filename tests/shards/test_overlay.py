"""Overlays: a data set with decisions applied is a pure function of the shards and the overlays."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from food101_fast.errors import UserError
from food101_fast.loader import ShardLoader
from food101_fast.prepare import PrepareSettings, prepare
from food101_fast.shards import ShardSet
from food101_fast.shards.apply import apply_overlays
from food101_fast.shards.overlay import Changes, Decision, Overlay, read_overlay, view, write_overlay
from food101_fast.shards.verify import verify
from food101_fast.storage import LocalFolder
from food101_fast.train import Recipe, train
from tests.conftest import encoded, picture, write_folder

Command = Callable[..., tuple[int, str, str]]

SMALL = Recipe(model="shufflenet_v2_x0_5", weights="none", image_size=32, epochs=1, batch_size=8)


def write(path: Path, shards: ShardSet, *decisions: Decision) -> Path:
    write_overlay(path, Overlay(data=shards.stored.digest, decisions=decisions))
    return path


def drop(split: str, *ids: int) -> list[Decision]:
    return [Decision(split=split, id=number, action="drop") for number in ids]


def rows(shards: ShardSet, split: str) -> list[tuple[str, int, bytes]]:
    """Key, label and pixels of each sample."""
    opened = shards.split(split)
    labels = opened.labels.tolist()
    return [(opened.key(number), labels[number], opened[number].tobytes()) for number in range(len(opened))]


actions = st.sampled_from(["drop", "relabel", "keep"])


@settings(max_examples=40, deadline=None)
@given(
    chosen=st.lists(
        st.dictionaries(st.tuples(st.sampled_from(["train", "val"]), st.integers(0, 6)), actions),
        min_size=1,
        max_size=3,
    ),
    label=st.sampled_from(["apple pie", "ramen", "tacos"]),
)
def test_it_is_what_the_decisions_say(
    chosen: list[dict[tuple[str, int], Any]], label: str, tiny_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Against a model of plain dicts: lengths, keys, labels, pixels, counts and the digest."""
    plain = ShardSet.open(tiny_path)
    folder = tmp_path_factory.mktemp("overlays")
    paths: list[Path] = []
    latest: dict[tuple[str, int], Any] = {}
    for number, decisions in enumerate(chosen):
        made = [
            Decision(split=split, id=at, action=action, label=label if action == "relabel" else None)
            for (split, at), action in decisions.items()
        ]
        paths.append(write(folder / f"{number}.json", plain, *made))
        latest |= decisions
    if all(latest.get(("val", number)) == "drop" for number in range(len(plain.split("val")))):
        return  # refused, see below
    shards = ShardSet.open(tiny_path, overlay=paths)
    for split in ("train", "val", "test"):
        expected = []
        for number, (key, old, pixels) in enumerate(rows(plain, split)):
            action = latest.get((split, number), "keep")
            if action != "drop":
                expected.append((key, plain.classes.index(label) if action == "relabel" else old, pixels))
        assert rows(shards, split) == expected
        entry = shards.manifest.splits[split]
        assert (entry.samples, len(shards.split(split))) == (len(expected), len(expected))
        assert list(entry.class_counts) == np.bincount([row[1] for row in expected], minlength=3).tolist()
    assert shards.manifest.digest != plain.manifest.digest
    assert shards.stored == plain.manifest
    assert pickle.loads(pickle.dumps(shards)).split("train").labels.tolist() == shards.split("train").labels.tolist()


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(0, 5), min_size=1, max_size=8), data=st.data())
def test_rows_are_found_through_any_shards(sizes: list[int], data: st.DataObject) -> None:
    """Shards without rows, and those whose samples are all left out, are not opened."""
    total = sum(sizes)
    kept = sorted(data.draw(st.sets(st.integers(0, max(total - 1, 0)), max_size=total))) if total else []
    of_shard = [shard for shard, size in enumerate(sizes) for _ in range(size)]
    shown = view(np.array(sizes), Changes(np.array(kept, np.int64), np.zeros(len(kept), np.int64), 0, 0))
    assert shown.rows is not None
    assert shown.used.tolist() == sorted({of_shard[row] for row in kept})
    assert shown.samples.tolist() == [sum(of_shard[row] == shard for row in kept) for shard in shown.used]
    stored = [row for row in range(total) if of_shard[row] in shown.used]  # rows of the shards that are opened
    assert [stored[row] for row in shown.rows] == kept


@pytest.mark.parametrize("window", [None, 12])
def test_every_kept_sample_comes_once_over_all_ranks(tiny_shards: ShardSet, tmp_path: Path, window: int | None) -> None:
    """A whole shard and single samples are left out. The order goes on where a saved state stopped."""
    left_out = [*range(9), 12, 30, 57]  # the first shard has 9 samples
    path = write(tmp_path / "o.json", tiny_shards, *drop("train", *left_out))
    shards = ShardSet.open(tiny_shards.location, overlay=path)
    common: dict[str, Any] = {"split": "train", "batch_size": 3, "seed": 1, "drop_last": False, "window": window}
    base = rows(tiny_shards, "train")
    seen = []
    for rank in range(2):
        loader = ShardLoader(shards, **common, rank=rank, world_size=2)
        for batch in loader:
            for number, label, image in zip(batch.ids.tolist(), batch.labels.tolist(), batch.images, strict=True):
                key = shards.split("train").key(number)
                stored = next(row for row in base if row[0] == key)
                assert (label, image.permute(1, 2, 0).numpy().tobytes()) == stored[1:]
                seen.append(key)
    assert sorted(seen) == sorted(row[0] for number, row in enumerate(base) if number not in left_out)
    whole = [batch.ids.tolist() for batch in ShardLoader(shards, **common)]
    begun = ShardLoader(shards, **common)
    iterator = iter(begun)
    first = [next(iterator).ids.tolist() for _ in range(4)]
    state = begun.state_dict()
    iterator.close()
    resumed = ShardLoader(shards, **common)
    resumed.load_state_dict(state)
    assert first + [batch.ids.tolist() for batch in resumed] == whole
    with pytest.raises(UserError, match="continue with the same shards"):
        ShardLoader(tiny_shards, **common).load_state_dict(state)


def test_damage_is_found_in_kept_rows_only(tiny_path: Path, tmp_path: Path) -> None:
    """A sample that is left out is not read."""
    copy = Path(shutil.copytree(tiny_path, tmp_path / "shards"))
    plain = ShardSet.open(copy)
    split = plain.split("train")
    key = split.key(3)
    content = bytearray((copy / "train-000000.tar").read_bytes())
    at = content.index(split[3].tobytes())
    content[at] ^= 1
    (copy / "train-000000.tar").write_bytes(content)
    with pytest.raises(UserError, match=key):
        list(ShardLoader(copy, split="train", batch_size=8))
    shards = ShardSet.open(copy, overlay=write(tmp_path / "o.json", plain, *drop("train", 3)))
    opened = shards.split("train")
    out = torch.empty(len(opened), opened.row_bytes, dtype=torch.uint8)
    opened.gather(np.arange(len(opened)), out)
    assert opened.unchecked == 0


def test_an_overlay_is_read_as_it_was_written(tiny_shards: ShardSet, tmp_path: Path) -> None:
    decisions = (
        Decision(split="train", id=1, action="relabel", label="tacos", key="a/1", reason="looks like it", by="audit"),
        Decision(split="val", id=0, action="drop"),
    )
    path = write(tmp_path / "o.json", tiny_shards, *decisions)
    overlay = read_overlay(str(path))
    assert overlay.decisions == decisions
    other = replace(overlay, decisions=(decisions[1], replace(decisions[0], reason="", key="", by="person")))
    assert other.digest == overlay.digest
    assert replace(overlay, decisions=decisions[:1]).digest != overlay.digest
    lines = path.read_text().splitlines()
    assert len(lines) == 4  # a decision has a line of its own
    assert orjson.loads(path.read_bytes())["data"] == tiny_shards.manifest.digest


@pytest.mark.parametrize(
    ("decisions", "message"),
    [
        (drop("train", 58), r"has a decision on sample 58 of train: its samples are 0 to 57"),
        (drop("extra", 0), r"sample 0 of extra: the shards have only train, val, test"),
        (
            [Decision(split="val", id=0, action="relabel", label="pho")],
            r"sample 0 of val: 'pho' is none of the classes \(apple pie, ramen, tacos\)",
        ),
        (drop("val", *range(7)), r"o\.json leaves val without an image; undo a decision"),
    ],
)
def test_what_the_shards_do_not_have_is_one_sentence(
    tiny_shards: ShardSet, tmp_path: Path, decisions: list[Decision], message: str
) -> None:
    path = write(tmp_path / "o.json", tiny_shards, *decisions)
    with pytest.raises(UserError, match=message):
        ShardSet.open(tiny_shards.location, overlay=path)


def test_a_class_that_would_be_empty_is_refused(tiny_shards: ShardSet, tmp_path: Path) -> None:
    labels = tiny_shards.split("train").labels
    gone = np.flatnonzero(labels == 0).tolist()
    path = write(tmp_path / "o.json", tiny_shards, *drop("train", *gone))
    with pytest.raises(UserError, match="leaves class 'apple pie' without an image in train; undo a decision"):
        ShardSet.open(tiny_shards.location, overlay=path)
    back = write(tmp_path / "back.json", tiny_shards, Decision(split="train", id=gone[0], action="keep"))
    shards = ShardSet.open(tiny_shards.location, overlay=[path, back])
    assert shards.manifest.splits["train"].class_counts[0] == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "o.json is not an overlay; give a file that write_overlay wrote"),
        (b'{"format": "x", "version": 1, "data": ""}', "o.json is not an overlay"),
        (b'{"format": "food101_fast overlay", "version": 1', "o.json is damaged"),
        (b'{"format": "food101_fast overlay", "version": 2, "data": ""}', "has version 2 of the format"),
        (
            b'{"format": "food101_fast overlay", "version": 1, "data": "", "decisions": '
            b'[{"split": "train", "id": 1, "action": "remove"}]}',
            "'remove' .*; actions are drop, relabel, keep",
        ),
        (
            b'{"format": "food101_fast overlay", "version": 1, "data": "", "decisions": '
            b'[{"split": "train", "id": 1, "action": "drop"}, {"split": "train", "id": 1, "action": "keep"}]}',
            "two decisions about sample 1 of train",
        ),
        (
            b'{"format": "food101_fast overlay", "version": 1, "data": "", "decisions": '
            b'[{"split": "train", "id": 1, "action": "relabel"}]}',
            "relabel, and nothing else, needs a label",
        ),
        (b'{"format": "food101_fast overlay", "version": 1, "data": "abc"}', r"made for other shards \(digest abc\)"),
    ],
)
def test_another_file_is_one_sentence(tiny_shards: ShardSet, tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "o.json").write_bytes(content)
    with pytest.raises(UserError, match=message):
        ShardSet.open(tiny_shards.location, overlay=tmp_path / "o.json")
    with pytest.raises(UserError, match=r"there is no overlay .*gone\.json; give its path to --overlay"):
        ShardSet.open(tiny_shards.location, overlay=tmp_path / "gone.json")


def test_it_still_applies_after_images_were_appended(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images", {"a": 20, "b": 20}, width=20, height=20)
    prepared = PrepareSettings(source=f"folder:{root}", out=tmp_path / "out", size=16, workers=1)
    prepare(prepared)
    before = ShardSet.open(tmp_path / "out")
    path = write(tmp_path / "o.json", before, *drop("train", 0, 5))
    keys = [before.split("train").key(number) for number in range(len(before.split("train")))]
    for number in range(10):
        (root / "a" / f"new{number}.jpg").write_bytes(encoded(picture(9000 + number, 20, 20)))
    prepare(replace(prepared, append=True))
    split = ShardSet.open(tmp_path / "out", overlay=path).split("train")
    found = [split.key(number) for number in range(len(split))]
    assert found[: len(keys) - 2] == [key for number, key in enumerate(keys) if number not in (0, 5)]
    assert len(found) > len(keys) - 2


def test_a_run_keeps_its_overlay(tiny_shards: ShardSet, tmp_path: Path, command: Command) -> None:
    """Evaluation and report find it; resuming and evaluating with another one are refused."""
    path = write(tmp_path / "o.json", tiny_shards, *drop("train", 1, 2), *drop("test", 0))
    run, shards = tmp_path / "run", tiny_shards.location
    train(ShardSet.open(shards, overlay=path), run, SMALL, device="cpu")
    assert command("evaluate", "--run", str(run), "--device", "cpu")[0] == 0
    metrics = orjson.loads((run / "test_metrics.json").read_bytes())
    assert metrics["samples"] == len(tiny_shards.split("test")) - 1
    again = ["train", "--shards", shards, "--run", str(run), "--resume", "--device", "cpu", "--epochs", "2"]
    code, _, err = command(*again)
    assert (code, err.count("\n")) == (2, 1)
    assert f"the overlays are not those that the run was trained with ({path}), or have changed since" in err
    assert command(*again, "--overlay", str(path))[0] == 0
    path.rename(tmp_path / "moved.json")
    code, _, err = command("evaluate", "--run", str(run), "--device", "cpu")
    assert (code, err.count("\n")) == (2, 1)
    assert f"there is no overlay {path}; give its path to --overlay" in err
    assert command("evaluate", "--run", str(run), "--device", "cpu", "--overlay", str(tmp_path / "moved.json"))[0] == 0


def test_show_counts_what_is_left(tiny_shards: ShardSet, tmp_path: Path, command: Command) -> None:
    tacos = np.flatnonzero(tiny_shards.split("train").labels == 2).tolist()
    relabel = Decision(split="train", id=tacos[-1], action="relabel", label="ramen")
    path = write(tmp_path / "o.json", tiny_shards, *drop("train", 1, 2), relabel)
    code, out, _ = command("shards", "show", tiny_shards.location, "--overlay", str(path))
    assert code == 0
    assert "71 images of 3 classes" in out
    assert f"overlays {path}: 2 images left out, 1 image with another label" in out
    assert "stratified 0.8 / 0.1 / 0.1, seed 0; changed by 1 overlay\n" in out
    assert "read 73 = written 73 + dropped 0, before overlays" in out


def test_webdataset_reads_tars_as_they_are(tiny_shards: ShardSet, tmp_path: Path) -> None:
    shards = ShardSet.open(tiny_shards.location, overlay=write(tmp_path / "o.json", tiny_shards, *drop("train", 1)))
    with pytest.raises(UserError, match="without overlays; use ShardLoader"):
        shards.webdataset("train")


def test_new_shards_are_those_that_the_overlay_shows(tiny_shards: ShardSet, tmp_path: Path, command: Command) -> None:
    """Byte for byte in pixels; the folder verifies, and has the rejects of both."""
    relabel = Decision(split="train", id=20, action="relabel", label="tacos")
    path = write(tmp_path / "o.json", tiny_shards, *drop("train", *range(9), 12), *drop("test", 1), relabel)
    shown = ShardSet.open(tiny_shards.location, overlay=path)
    out = tmp_path / "out"
    code, said, _ = command("shards", "apply-overlay", tiny_shards.location, "--overlay", str(path), "--out", str(out))
    assert code == 0
    assert "62 images of 3 classes" in said
    assert "dropped: overlay 11" in said
    assert list(verify(LocalFolder(out))) == []
    applied = ShardSet.open(out)
    for split in ("train", "val", "test"):
        assert rows(applied, split) == rows(shown, split)
        counts = applied.manifest.splits[split].class_counts
        assert counts == shown.manifest.splits[split].class_counts
    assert applied.manifest.overlaid_splits == ("train", "test")
    assert "changed by 1 overlay" in said
    assert applied.manifest.digest not in (shown.manifest.digest, tiny_shards.manifest.digest)
    assert sorted(path.name for path in out.glob("train-*.tar"))[0] == "train-000000.tar"
    code, _, err = command("shards", "apply-overlay", tiny_shards.location, "--overlay", str(path), "--out", str(out))
    assert (code, err.count("\n")) == (2, 1)
    assert f"the folder {out} is not empty; give another one to --out" in err


def test_a_failure_leaves_no_half_folder(tiny_path: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_path, tmp_path / "shards"))
    plain = ShardSet.open(copy)
    shards = ShardSet.open(copy, overlay=write(tmp_path / "o.json", plain, *drop("train", 3)))
    content = bytearray((copy / "val-000000.tar").read_bytes())
    content[content.index(plain.split("val")[2].tobytes())] ^= 1
    (copy / "val-000000.tar").write_bytes(content)
    with pytest.raises(UserError, match="its bytes were changed"):
        apply_overlays(shards, str(tmp_path / "out"))
    assert not list((tmp_path / "out").rglob("*"))
    with pytest.raises(UserError, match="there is no overlay to apply"):
        apply_overlays(plain, str(tmp_path / "out"))
