"""The folder that prepare leaves: complete and the same bytes every time, or nothing at all."""

from __future__ import annotations

import filecmp
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import orjson
import pytest
import webdataset

from food101_fast.errors import UserError
from food101_fast.prepare import PrepareSettings, prepare
from food101_fast.shards import ShardSet
from tests.conftest import write_folder


def same_files(a: Path, b: Path) -> bool:
    names = sorted(path.name for path in a.iterdir())
    same, _, _ = filecmp.cmpfiles(a, b, names, shallow=False)
    return names == sorted(path.name for path in b.iterdir()) == sorted(same)


def test_the_number_of_workers_changes_no_byte(tmp_path: Path) -> None:
    for workers in (1, 2):
        out = tmp_path / str(workers)
        prepare(PrepareSettings(source="demo:", out=out, size=24, workers=workers, limit=203, samples_per_shard=40))
    assert same_files(tmp_path / "1", tmp_path / "2")


def test_dropped_images_are_counted_and_listed(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "images", {"a": 20, "b": 20})
    (source / "a" / "zero.jpg").write_bytes(b"")
    (source / "b" / "page.jpg").write_bytes(b"<html>")
    manifest = prepare(PrepareSettings(source=f"folder:{source}", out=tmp_path / "out", size=16, workers=1))
    assert manifest.rejects == {"empty": 1, "not-an-image": 1}
    assert manifest.read == 42
    assert sum(split.samples for split in manifest.splits.values()) == 40
    lines = [orjson.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_bytes().splitlines()]
    assert [(line["key"], line["reason"]) for line in lines] == [("a/zero", "empty"), ("b/page", "not-an-image")]
    assert not list((tmp_path / "out").glob("*.tmp"))


@pytest.mark.parametrize(
    ("counts", "flags", "message"),
    [
        ({"a": 20, "b": 9}, [], "at least 10 are needed"),
        ({"a": 20}, ["--fractions", "0.5", "0.5", "0.5"], "--fractions"),
        ({"a": 20}, ["--size", "0"], "--size"),
        ({"a": 20}, ["--workers", "0"], "--workers"),
        ({}, [], "there is no folder"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, command: Callable[..., tuple[int, str, str]], counts: dict[str, int], flags: list[str], message: str
) -> None:
    write_folder(tmp_path / "images", counts)
    out = tmp_path / "out"
    code, _, err = command("prepare", "--source", f"folder:{tmp_path / 'images'}", "--out", str(out), *flags)
    assert code == 2
    assert re.fullmatch(rf"error: .*{re.escape(message)}.*\n", err)
    assert not out.exists()


def test_a_source_that_fails_on_the_way_leaves_nothing(
    tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    source = write_folder(tmp_path / "images", {"a": 20})
    for path in (source / "a").iterdir():
        path.write_bytes(b"")
    code, _, err = command("prepare", "--source", f"folder:{source}", "--out", str(tmp_path / "out"), "--size", "16")
    assert code == 2
    assert "had to be dropped" in err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_other_files_are_never_touched(tmp_path: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    source = write_folder(tmp_path / "images", {"a": 10})
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    code, _, err = command("prepare", "--source", f"folder:{source}", "--out", str(out))
    assert code == 2
    assert "holds other files, such as 'thesis.txt'" in err
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


def test_the_source_is_never_written_into(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "images", {"a": 10})
    with pytest.raises(UserError, match="lies inside the source"):
        prepare(PrepareSettings(source=f"folder:{source}", out=source / "shards"))
    assert [path.name for path in source.iterdir()] == ["a"]


def test_ctrl_c_while_workers_start_is_one_word_and_leaves_nothing(tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "food101_fast.prepare", "--source", "demo:", "--out", str(tmp_path / "out")]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, start_new_session=True) as process:
        assert process.stderr is not None
        shown = b""
        while b"prepare:" not in shown:  # the bar appears just before the workers are started
            shown += process.stderr.read(1)
        os.killpg(process.pid, signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 130
    assert rest.endswith(b"interrupted\n")
    assert b"Traceback" not in rest
    assert not (tmp_path / "out").exists()


def test_a_finished_folder_is_not_overwritten(tiny_folder: Path, tmp_path: Path) -> None:
    settings = PrepareSettings(source=f"folder:{tiny_folder}", out=tmp_path / "out", size=16, workers=1)
    prepare(settings)
    with pytest.raises(UserError, match="already holds a finished set of shards"):
        prepare(settings)


def test_an_unfinished_folder_is_made_anew(tiny_folder: Path, tmp_path: Path) -> None:
    settings = {"source": f"folder:{tiny_folder}", "size": 16, "workers": 1}
    prepare(PrepareSettings(out=tmp_path / "whole", **settings))
    (tmp_path / "cut").mkdir()
    for name in ("train-000000.tar", "train-000007.index.npy", "val-000000.tar.tmp"):
        (tmp_path / "cut" / name).write_bytes(b"half")
    prepare(PrepareSettings(out=tmp_path / "cut", **settings))
    assert same_files(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset and tarfile leave files to the collector
def test_other_programs_read_the_same_pixels_and_labels(tiny_path: Path, tmp_path: Path) -> None:
    shards = ShardSet.open(tiny_path)
    split = shards.split("train")
    tars = sorted(str(path) for path in tiny_path.glob("train-*.tar"))
    listed = [name for tar in tars for name in subprocess.check_output(["tar", "-tf", tar], text=True).split()]
    ours = list(range(len(split)))
    assert [Path(name).suffix for name in listed] == [".cls", ".npy"] * len(split)
    for tar in tars:
        names = subprocess.check_output(["tar", "-tf", tar], text=True).splitlines()
        assert names == sorted(names)
    read = list(webdataset.WebDataset(tars, shardshuffle=False).decode())
    assert [sample["cls"] for sample in read] == split.labels.tolist()
    assert all(np.array_equal(sample["npy"], split[i]) for i, sample in zip(ours, read, strict=True))
    hub = datasets.load_dataset(
        "webdataset", data_files={"train": tars}, split="train", cache_dir=str(tmp_path), streaming=False
    )
    assert [int(row["cls"]) for row in hub] == split.labels.tolist()
    assert all(np.array_equal(np.array(row["npy"], np.uint8), split[i]) for i, row in zip(ours, hub, strict=True))


def test_rows_have_one_stride_and_no_extra_headers(tiny_path: Path) -> None:
    for tar in tiny_path.glob("*.tar"):
        content = tar.read_bytes()
        samples = len(np.load(tar.with_name(tar.stem + ".index.npy")))
        payload = 128 + 32 * 32 * 3
        stride = 512 + 512 + 512 + -(-payload // 512) * 512
        for row in range(samples):
            header = content[row * stride : row * stride + 512]
            assert header[257:263] == b"ustar\0"
            assert header[108:116] == header[116:124] == b"0000000\0"  # uid and gid
            assert header[136:148] == b"00000000000\0"  # mtime


def test_real_photographs_are_split_exactly(photographs: Path, tmp_path: Path) -> None:
    manifest = prepare(
        PrepareSettings(source=f"folder:{photographs / 'food101-10-classes'}", out=tmp_path / "out", size=64)
    )
    assert manifest.rejects == {}
    assert {name: split.class_counts for name, split in manifest.splits.items()} == {
        "train": (80,) * 10,
        "val": (10,) * 10,
        "test": (10,) * 10,
    }


def test_the_hub_data_set_keeps_its_classes(photographs: Path, tmp_path: Path) -> None:
    manifest = prepare(
        PrepareSettings(source=f"hub:{photographs / 'food101-64px'}", out=tmp_path / "out", size=64, limit=2020)
    )
    assert len(manifest.classes) == 101
    assert (manifest.classes[0], manifest.classes[-1]) == ("apple_pie", "waffles")
    counts = np.array([split.class_counts for split in manifest.splits.values()])
    assert counts.sum() == 2020
    assert np.abs(counts.T - 20 * np.array([0.8, 0.1, 0.1])).max() <= 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_target_is_one_sentence(tiny_folder: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(UserError, match="cannot write into"):
        prepare(PrepareSettings(source=f"folder:{tiny_folder}", out=tmp_path / "out", size=16))
