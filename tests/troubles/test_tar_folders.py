"""Tars in several folders, val cut from train, an earlier index, and every image format.

Reports: webdataset#135 and webdataset#313 (how to split a WebDataset).
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import orjson
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from food101_fast.errors import UserError
from food101_fast.images import clean
from food101_fast.prepare import PrepareSettings, prepare
from food101_fast.shards import ShardSet
from food101_fast.shards.foreign import IndexOptions, write_index
from food101_fast.shards.foreign.cut import cut_val
from food101_fast.shards.protocol import protocol
from food101_fast.shards.show import describe
from food101_fast.shards.verify import verify
from food101_fast.storage import LocalFolder
from tests.conftest import contents, flip
from tests.troubles.tars import RULES, Link, image, index, labels, pairs, rejects, tar_bytes, write_tar


def split_folders(root: Path, names: tuple[str, ...] = ("train", "val", "test")) -> list[Path]:
    return [write_tar(root / name / "000.tar", pairs(6, first=10 * n)) for n, name in enumerate(names)]


@pytest.mark.parametrize(
    "names",
    [
        ("train", "val", "test"),
        ("training_set", "validation_set", "test_set"),
        ("seg_train", "seg_dev", "seg_test"),
        ("train2017", "val2017", "test2017"),
        ("ILSVRC2012_img_train", "ILSVRC2012_img_val", "ILSVRC2012_img_test"),
    ],
)
def test_split_folders_become_one_data_set(tmp_path: Path, names: tuple[str, ...]) -> None:
    tars = split_folders(tmp_path, names)
    before = contents(tmp_path)
    manifest = index(*tars)
    assert {split: entry.samples for split, entry in manifest.splits.items()} == {"train": 6, "val": 6, "test": 6}
    assert [shard.name for shard in manifest.splits["val"].shards] == [f"{names[1]}/000.tar"]
    assert protocol(manifest) == "splits as the tars have them"
    assert not list(verify(LocalFolder(tmp_path)))
    shards = ShardSet.open(tmp_path)
    for number, split in enumerate(("train", "val", "test")):
        assert np.array_equal(shards.split(split)[2], clean(image(10 * number + 2, "jpg"), RULES).pixels)
        assert labels(tmp_path, split) == [str((10 * number + n) % 3) for n in range(6)]
    assert {name: content for name, content in contents(tmp_path).items() if name in before} == before


def test_the_command_with_worker_processes(tmp_path: Path) -> None:
    split_folders(tmp_path)
    command = (sys.executable, "-m", "food101_fast.shards", "index", "{train,val,test}/*.tar", "--workers", "2")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "read 18 = written 18 + dropped 0" in done.stdout


def test_a_folder_named_like_a_split_tells_it_alone(tmp_path: Path) -> None:
    assert set(index(write_tar(tmp_path / "val" / "000.tar", pairs(3))).splits) == {"val"}
    with pytest.raises(UserError, match="does not say which split"):
        index(write_tar(tmp_path / "my_test_data" / "000.tar", pairs(3)))


def test_folders_behind_a_url_are_read_through_the_cache(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for n, name in enumerate(("train/a", "train/b", "val/a")):
        memory.pipe_file(f"/joined/{name}.tar", tar_bytes(pairs(6, first=10 * n)))
    try:
        folder, _ = write_index(["memory://joined/train/{a,b}.tar", "memory://joined/val/a.tar"], RULES)
        assert folder.url == "memory://joined"
        assert not list(verify(folder))
        shards = ShardSet.open("memory://joined", cache_dir=tmp_path / "cache", cache_gb=1.5 * 40_000 / 1e9)
        for split, first in (("train", 0), ("val", 20)):
            assert np.array_equal(shards.split(split)[1], clean(image(first + 1, "jpg"), RULES).pixels)
        files = list((tmp_path / "cache").rglob("*.tar"))
        assert files
        assert sum(path.stat().st_size for path in files) <= 60_000
    finally:
        memory.rm("/joined", recursive=True)


def test_folders_without_one_above_them_are_refused(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "train.tar", pairs(3))
    for other, message in (("memory://x/val.tar", "of different kinds"), ("/val.tar", "no folder in common")):
        with pytest.raises(UserError, match=message):
            index(tar, other)


def test_a_manifest_that_leads_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    index(*split_folders(tmp_path))
    for name in ("../000.tar", "/etc/000.tar", "train//000.tar", "train/./000.tar"):
        document = orjson.loads((tmp_path / "manifest.json").read_bytes())
        document["splits"]["train"]["shards"][0]["name"] = name
        (tmp_path / "manifest.json").write_bytes(orjson.dumps(document))
        with pytest.raises(UserError, match="should be a plain file name, or a path below the folder"):
            ShardSet.open(tmp_path)


def test_a_split_that_would_be_empty_is_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "train.tar", [(f"{n}.png", Link(f"/photos/{n}.png")) for n in range(5)])
    write_tar(tmp_path / "val.tar", pairs(5))
    with pytest.raises(UserError, match=r"the train tars in .* have no sample.*a link to /photos/0\.png"):
        index(tmp_path / "{train,val}.tar")
    assert not (tmp_path / "manifest.json").exists()


def test_images_of_two_splits_are_noted(tmp_path: Path) -> None:
    """They are kept, since the tars say so, but a result on them says less."""
    write_tar(tmp_path / "train.tar", pairs(6))
    write_tar(tmp_path / "val.tar", pairs(3, first=4, name="v{}"))
    write_tar(tmp_path / "test.tar", pairs(2, first=5, name="t{}"))
    manifest = index(tmp_path / "{train,val,test}.tar")
    assert manifest.notes == {"also-in-test": 3, "also-in-val": 1}
    lines = [orjson.loads(line) for line in (tmp_path / "notes.jsonl").read_bytes().splitlines()]
    assert {(line["file"], line["detail"]) for line in lines} == {
        ("train.tar/4.jpg", "the bytes of val.tar/v4.jpg"),
        ("train.tar/5.jpg", "the bytes of test.tar/t5.jpg"),
        ("val.tar/v5.jpg", "the bytes of test.tar/t5.jpg"),
        ("val.tar/v6.jpg", "the bytes of test.tar/t6.jpg"),
    }


def test_val_is_cut_from_train(tmp_path: Path) -> None:
    tars = [write_tar(tmp_path / f"train-{n}.tar", pairs(30, first=30 * n)) for n in range(2)]
    before = [tar.read_bytes() for tar in tars]
    manifest = index(*tars, val_fraction=0.2)
    assert [tar.read_bytes() for tar in tars] == before
    assert manifest.splits["train"].class_counts == (16, 16, 16)
    assert manifest.splits["val"].class_counts == (4, 4, 4)
    assert (manifest.split_by, manifest.val_fraction) == ("source", 0.2)
    assert not list(verify(LocalFolder(tmp_path)))
    assert "2 tars have samples of train and val" in describe(manifest, "x")
    assert protocol(manifest) == "splits as the tars have them; val is 0.2 of train, seed 0"
    shards = ShardSet.open(tmp_path)
    seen = [shards.split(split)[n].tobytes() for split in ("train", "val") for n in range(len(shards.split(split)))]
    assert Counter(seen) == Counter(clean(image(n, "jpg"), RULES).pixels.tobytes() for n in range(60))
    again = index(*tars, val_fraction=0.2, replace=True)
    other = index(*tars, val_fraction=0.2, seed=1, replace=True)
    assert again == manifest != other
    index(*tars, replace=True)
    assert not list(tmp_path.glob("*.val.index.npy"))  # of the index before


def test_a_set_without_val_says_how_to_get_one(tmp_path: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    tar = write_tar(tmp_path / "train.tar", pairs(30))
    code, out, _ = command("shards", "index", str(tar), "--size", "16", "--workers", "1")
    hint = "index again with --val-fraction 0.1 --replace, or with tars of val too"
    assert (code, out.splitlines()[-1]) == (0, f"train needs a val split too: {hint}")
    with pytest.raises(UserError, match=rf"has no split 'val', only train; training needs train and val: {hint}"):
        ShardSet.open(tmp_path).split("val")
    code, out, _ = command(
        *("shards", "index", str(tar), "--size", "16", "--workers", "1", "--val-fraction", "0.1", "--replace")
    )
    assert code == 0
    assert "needs a val" not in out
    assert "1 tar has samples of train and val" in out
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.startswith(("train ", "val "))}
    assert rows["train"][6] == rows["val"][6] == "-"  # bytes of one image


def test_test_tars_stay_when_val_is_cut(tmp_path: Path) -> None:
    tars = split_folders(tmp_path, ("train", "test"))
    manifest = index(*tars, val_fraction=0.5)
    assert {name: split.samples for name, split in manifest.splits.items()} == {"train": 3, "val": 3, "test": 6}
    assert (tmp_path / "train" / "000.val.index.npy").exists()
    assert len(labels(tmp_path, "val")) == len(labels(tmp_path, "train")) == 3


def test_val_cut_from_train_is_read_through_the_cache(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/cut/train.tar", tar_bytes(pairs(30)))
    try:
        write_index(["memory://cut/train.tar"], RULES, IndexOptions(val_fraction=0.5))
        shards = ShardSet.open("memory://cut", cache_dir=tmp_path)
        rows = [shards.split(split)[n].tobytes() for split in ("train", "val") for n in range(15)]
        assert len(set(rows)) == 30
    finally:
        memory.rm("/cut", recursive=True)


def test_a_damaged_tar_of_two_splits_is_found(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "train.tar", pairs(12))
    index(tar, val_fraction=0.25)
    flip(tar, int(np.load(tmp_path / "train.val.index.npy")[0]["offset"]))
    problems = list(verify(LocalFolder(tmp_path)))
    assert sum("its hash differs" in problem for problem in problems) == 1
    assert sum("sample 0 at byte" in problem for problem in problems) == 1


@pytest.mark.parametrize(("names", "has"), [(("train", "val"), "train, val"), (("test",), "test")])
def test_val_is_not_cut_if_there_is_one_or_no_train(tmp_path: Path, names: tuple[str, ...], has: str) -> None:
    with pytest.raises(UserError, match=f"the tars are {has}; leave it out"):
        index(*split_folders(tmp_path, names), val_fraction=0.1)


@given(
    samples=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 15)), min_size=2, max_size=60),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 3),
)
def test_val_has_its_share_of_each_class_and_no_file_of_train(
    samples: list[tuple[int, int]], fraction: float, seed: int
) -> None:
    classes = np.array([label for label, _ in samples])
    digests = np.array([xxhash.xxh3_64_intdigest(bytes(sample)) for sample in samples], np.uint64)
    files = Counter(classes[np.unique(digests, return_index=True)[1]].tolist())
    if max(files.values()) < 2:
        with pytest.raises(UserError, match="no class with two images"):
            cut_val(classes, digests, fraction=fraction, seed=seed)
        return
    try:
        is_val = cut_val(classes, digests, fraction=fraction, seed=seed)
    except UserError:  # every file has more copies than val has room for
        return
    assert not set(digests[is_val].tolist()) & set(digests[~is_val].tolist())
    for label, count in Counter(classes.tolist()).items():
        in_val = int(is_val[classes == label].sum())
        assert in_val <= max(1, round(fraction * count))
        assert in_val < count
        if files[label] == count > 1:  # no copies
            assert in_val == min(max(1, round(fraction * count)), count - 1)


def test_an_earlier_index_is_kept_unless_it_is_replaced(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "train.tar", pairs(6))
    index(tar)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"manifest\.json is from an earlier index, which is kept; give --replace"):
        index(tar, val_fraction=0.5)
    assert contents(tmp_path) == before
    assert b'"index"' not in before["manifest.json"]  # so that the digest is what it was
    assert set(index(tar, val_fraction=0.5, replace=True).splits) == {"train", "val"}
    assert b'"index": "train.val.index.npy"' in (tmp_path / "manifest.json").read_bytes()


def test_the_index_of_one_folder_is_not_spoiled_by_that_of_several(tmp_path: Path) -> None:
    train, val = split_folders(tmp_path, ("train", "val"))
    index(train)
    before = contents(tmp_path)
    for replace in (False, True):
        with pytest.raises(UserError, match=r"train has an index of its own.*remove its manifest\.json"):
            index(train, val, replace=replace)
    assert contents(tmp_path) == before
    (tmp_path / "train" / "manifest.json").unlink()
    (tmp_path / "train" / "000.index.npy").unlink()
    index(train, val)
    with pytest.raises(UserError, match=r"000\.index\.npy is from an earlier index"):
        index(train)


def test_prepared_tars_are_refused_also_in_a_folder_below(tiny_folder: Path, tmp_path: Path) -> None:
    settings = PrepareSettings(source=f"folder:{tiny_folder}", out=tmp_path / "train", size=32, workers=1)
    prepare(settings)
    val = write_tar(tmp_path / "val" / "0.tar", pairs(3))
    with pytest.raises(UserError, match="train was written by prepare"):
        index(tmp_path / "train" / "train-000000.tar", val, replace=True)


@pytest.mark.parametrize(
    "kind",
    ["bmp", "tif", "tiff", "gif", "avif", "ppm", "png", "webp", "npy", "jpg", "jpeg", "tga", "ico", "qoi", "jp2"],
)
@pytest.mark.parametrize("upper", [False, True])
def test_every_format_that_prepare_reads(tmp_path: Path, kind: str, upper: bool) -> None:
    content = image(3, {"ppm": "ppm", "jp2": "JPEG2000"}.get(kind, kind))
    name = f"x.{kind.upper() if upper else kind}"
    manifest = index(write_tar(tmp_path / "train.tar", [(name, content), ("x.label", b"cat")]))
    assert manifest.rejects == {}
    assert np.array_equal(ShardSet.open(tmp_path).split("train")[0], clean(content, RULES).pixels)


def test_what_is_no_image_inside_is_named(tmp_path: Path) -> None:
    index(
        write_tar(tmp_path / "train.tar", [*pairs(2), ("x.heic", b"\0\0\0\x18ftypheic" + bytes(64)), ("x.cls", b"0")])
    )
    assert [line["file"] for line in rejects(tmp_path)] == ["train.tar/x.heic"]
