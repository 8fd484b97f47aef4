"""The folder that prepare leaves: complete and the same bytes every time, or nothing at all."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
import pytest
import webdataset
from PIL import Image

from food101_fast.errors import UserError
from food101_fast.loader import ShardLoader
from food101_fast.prepare import PrepareSettings, prepare, unfinished
from food101_fast.shards import Manifest, ShardSet
from food101_fast.shards.verify import verify
from food101_fast.storage import LocalFolder, open_folder
from tests.conftest import contents, write_folder


def test_the_number_of_workers_changes_no_byte(tmp_path: Path) -> None:
    for workers in (1, 2):
        out = tmp_path / str(workers)
        prepare(PrepareSettings(source="demo:", out=out, size=24, workers=workers, limit=203, samples_per_shard=40))
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


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
    assert re.fullmatch(rf"error: .*{re.escape(message)}.*\n", err)  # and no progress bar before it
    assert not out.exists()


def test_a_source_that_fails_on_the_way_leaves_nothing(
    tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    source = write_folder(tmp_path / "images", {"a": 20, "b": 20})
    for path in source.rglob("*.jpg"):
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
    assert "has other files, such as 'thesis.txt'" in err
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


def test_the_source_is_never_written_into(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "images", {"a": 10, "b": 10})
    with pytest.raises(UserError, match="is inside the source"):
        prepare(PrepareSettings(source=f"folder:{source}", out=source / "shards"))
    assert sorted(path.name for path in source.iterdir()) == ["a", "b"]


def test_a_finished_folder_is_left_as_it_is(tiny_folder: Path, tmp_path: Path) -> None:
    settings = PrepareSettings(source=f"folder:{tiny_folder}", out=tmp_path / "out", size=16, workers=1)
    manifest = prepare(settings)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert prepare(settings) == manifest
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == times


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("other", "difference"),
    [
        ({"size": 24}, "--size was 16 and is 24 now"),
        ({"fit": "squash"}, "--fit was crop and is squash now"),
        ({"decode": "full"}, "--decode was scaled and is full now"),
        ({"encoding": "jpeg"}, "--encoding was raw and is jpeg now; --quality was not given and is 90 now"),
        ({"seed": 1}, "--seed was 0 and is 1 now"),
        ({"fractions": (0.5, 0.25, 0.25)}, "--fractions was 0.8 0.1 0.1 and is 0.5 0.25 0.25 now"),
        ({"strict": True}, "the check (--strict, --tolerant) was default and is strict now"),
        ({"duplicates": "keep"}, "--duplicates was drop and is keep now"),
        ({"samples_per_shard": 7}, "--samples-per-shard was 500 and is 7 now"),
        ({"limit": 50}, "--limit was not given and is 50 now"),
    ],
)
def test_other_settings_are_refused_and_named(
    tiny_folder: Path, tmp_path: Path, other: dict[str, Any], difference: str, finished: bool
) -> None:
    base = PrepareSettings(source=f"folder:{tiny_folder}", out=tmp_path / "out", size=16, workers=1)
    manifest = prepare(base)
    if not finished:
        interrupt(tmp_path / "out", base, manifest.fingerprint)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=re.escape(f"was started with other settings ({difference})")):
        prepare(dataclasses.replace(base, **other))
    assert contents(tmp_path) == before


def test_other_decoders_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    settings = PrepareSettings(source=f"folder:{tiny_folder}", out=tmp_path / "out", size=16, workers=1)
    interrupt(tmp_path / "out", settings, prepare(settings).fingerprint)
    with pytest.raises(UserError, match=r"was started with those of old and pillow .* is installed now"):
        prepare(settings)


def test_a_damaged_record_of_the_settings_is_one_sentence(tiny_folder: Path, tmp_path: Path) -> None:
    settings = PrepareSettings(source=f"folder:{tiny_folder}", out=tmp_path / "out", size=16, workers=1)
    interrupt(tmp_path / "out", settings, prepare(settings).fingerprint)
    (tmp_path / "out" / ".unfinished" / "settings.json").write_bytes(b'{"settings": 3}')
    with pytest.raises(UserError, match=r"settings\.json is damaged .*; remove the folder, or give another --out"):
        prepare(settings)


def interrupt(out: Path, settings: PrepareSettings, fingerprint: str) -> None:
    """Make a finished folder look like an interrupted one."""
    (out / "manifest.json").unlink()
    (out / ".unfinished").mkdir()
    unfinished.write_origin(
        LocalFolder(out), unfinished.Origin(settings=settings.stored, fingerprint=fingerprint, decoders="those of old")
    )
    (out / ".unfinished" / "train-000000.tar.json").write_bytes(b"a record")


def test_other_files_in_the_source_are_refused(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "images", {"a": 20, "b": 20})
    settings = PrepareSettings(source=f"folder:{source}", out=tmp_path / "out", size=16, workers=1)
    prepare(settings)
    picture_of = (source / "a" / "003.jpg").read_bytes()
    (source / "a" / "003.jpg").write_bytes(picture_of[:-1] + b"?")  # the same name and size
    with pytest.raises(UserError, match=r"the source has changed since"):
        prepare(settings)


def test_shards_of_unknown_settings_are_never_touched(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "train-000000.tar").write_bytes(b"somebody's")
    with pytest.raises(UserError, match="has shards, but neither a manifest nor"):
        prepare(PrepareSettings(source=f"folder:{tiny_folder}", out=tmp_path, size=16))
    assert contents(tmp_path) == {"train-000000.tar": b"somebody's"}


def test_jpeg_shards_hold_what_raw_ones_hold(tiny_folder: Path, tmp_path: Path) -> None:
    raw_settings = PrepareSettings(
        source=f"folder:{tiny_folder}", out=tmp_path / "raw", size=32, samples_per_shard=9, workers=2, quality=95
    )
    shards = {}
    for settings in (raw_settings, dataclasses.replace(raw_settings, out=tmp_path / "jpeg", encoding="jpeg")):
        prepare(settings)
        shards[settings.encoding] = ShardSet.open(settings.out)
    assert shards["jpeg"].manifest.quality == 95
    for name in ("train", "val", "test"):
        raw, jpeg = shards["raw"].split(name), shards["jpeg"].split(name)
        assert np.array_equal(raw.labels, jpeg.labels)
        differences = [np.abs(raw[i].astype(int) - jpeg[i]).mean() for i in range(len(raw))]
        assert max(differences) < 4
    sizes = [sum(path.stat().st_size for path in (tmp_path / name).glob("*.tar")) for name in ("jpeg", "raw")]
    assert sizes[0] < sizes[1]
    batch = next(iter(ShardLoader(shards["jpeg"], split="train", batch_size=8)))
    for image, sample in zip(batch.images, batch.ids.tolist(), strict=True):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), shards["jpeg"].split("train")[sample])


def test_quality_is_heeded(tiny_folder: Path, tmp_path: Path) -> None:
    sizes = []
    for quality in (50, 95):
        settings = PrepareSettings(
            source=f"folder:{tiny_folder}", out=tmp_path / str(quality), size=32, encoding="jpeg", quality=quality
        )
        manifest = prepare(settings)
        sizes.append(sum(shard.bytes for shard in manifest.splits["train"].shards))
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_the_tar_is_webdatasets_byte_for_byte(
    tiny_folder: Path, tmp_path: Path, encoding: Literal["raw", "jpeg"]
) -> None:
    settings = PrepareSettings(source=f"folder:{tiny_folder}", out=tmp_path / "out", size=32, encoding=encoding)
    prepare(settings)
    ours = (tmp_path / "out" / "train-000000.tar").read_bytes()
    stream = BytesIO()
    with webdataset.TarWriter(stream, user="", group="", mtime=0, encoder=False) as writer:
        with tarfile.open(fileobj=BytesIO(ours)) as tar:
            members = [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
        for (label_name, label), (name, payload) in zip(members[::2], members[1::2], strict=True):
            key, _, suffix = name.partition(".")
            assert label_name == f"{key}.cls"
            writer.write({"__key__": key, "cls": label, suffix: payload})
    assert stream.getvalue() == ours


@pytest.mark.parametrize("classes", [3, 30])
def test_the_overview_shows_every_class_and_every_reason(tmp_path: Path, classes: int) -> None:
    source = write_folder(tmp_path / "images", {f"class_{i}": 10 for i in range(classes)})
    (source / "class_0" / "empty.jpg").write_bytes(b"")
    (source / "class_1" / "half.jpg").write_bytes((source / "class_1" / "003.jpg").read_bytes()[:-60])
    fractions = (0.5, 0.25, 0.25)
    prepare(PrepareSettings(source=f"folder:{source}", out=tmp_path / "out", size=32, fractions=fractions))
    sizes = {}
    for name in ("class_counts", "samples", "rejects"):
        with Image.open(tmp_path / "out" / "overview" / f"{name}.png") as image:
            assert np.asarray(image.convert("L")).std() > 5  # something is drawn
            sizes[name] = image.size
    columns, rows = (8, 3) if classes == 3 else (12, 3)  # a row of 8 for each class, or 30 pictures in rows of 12
    assert sizes["samples"] == (columns * 136 + 8, rows * (128 + 15 + 8) + 46)
    assert sizes["rejects"] == (6 * 228 + 8, 128 + 45 + 8 + 46)


def test_memory_folders_work_in_this_process(tiny_folder: Path, tmp_path: Path) -> None:
    """The smallest of fsspec's file systems, as target and as source."""

    def prepared(source: str, out: Path | str) -> Manifest:
        return prepare(PrepareSettings(source=source, out=out, size=16, samples_per_shard=9))

    prepared(f"folder:{tiny_folder}", tmp_path / "out")
    memory = open_folder(f"memory://{tmp_path.name}")
    images = open_folder(f"memory://{tmp_path.name}-images")
    for path in tiny_folder.rglob("*.jpg"):
        images.write(path.relative_to(tiny_folder).as_posix(), path.read_bytes())
    prepared(f"folder:{tiny_folder}", memory.url)
    assert {name: memory.read(name) for name in memory.files()} == files_in(tmp_path / "out")
    assert not list(verify(memory))
    again = open_folder(f"memory://{tmp_path.name}-again")
    manifest = prepared(f"folder:{images.url}", again.url)
    tars = [shard.name for split in manifest.splits.values() for shard in split.shards]
    assert all(again.read(name) == memory.read(name) for name in tars)
    assert prepared(f"folder:{images.url}", again.url) == manifest


def files_in(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in contents(folder).items() if (folder / name).is_file()}


def test_tar_lists_members_in_the_order_of_their_names(tiny_path: Path) -> None:
    for tar in tiny_path.glob("*.tar"):
        names = subprocess.check_output(["tar", "-tf", tar], text=True).splitlines()
        assert names == sorted(names)
        assert [Path(name).suffix for name in names] == [".cls", ".npy"] * (len(names) // 2)


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


@pytest.mark.slow
def test_the_hub_data_set_keeps_its_classes(photographs: Path, tmp_path: Path) -> None:
    manifest = prepare(
        PrepareSettings(source=f"hub:{photographs / 'food101-64px'}", out=tmp_path / "out", size=64, limit=2020)
    )
    assert len(manifest.classes) == 101
    assert (manifest.classes[0], manifest.classes[-1]) == ("apple_pie", "waffles")
    counts = np.array([split.class_counts for split in manifest.splits.values()])
    assert counts.sum() == 2020
    assert np.abs(counts.T - 20 * np.array([0.8, 0.1, 0.1])).max() <= 1


def test_a_finished_folder_that_has_lost_a_shard_is_not_called_finished(tiny_folder: Path, tmp_path: Path) -> None:
    settings = PrepareSettings(source=f"folder:{tiny_folder}", out=tmp_path / "out", size=16, workers=1)
    prepare(settings)
    (tmp_path / "out" / "test-000000.tar").unlink()
    with pytest.raises(UserError, match=r"is finished, but test-000000\.tar or its index is missing"):
        prepare(settings)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_outside_the_range_is_one_sentence(tmp_path: Path, seed: int) -> None:
    with pytest.raises(UserError, match=r"--seed .* should be at least 0 and at most 4294967295"):
        PrepareSettings(out=tmp_path, seed=seed)


def test_another_programs_manifest_is_not_called_damaged(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "my web app"}')
    with pytest.raises(UserError, match="was written by another program"):
        prepare(PrepareSettings(source=f"folder:{tiny_folder}", out=tmp_path, size=16, workers=1))
    assert (tmp_path / "manifest.json").read_text() == '{"name": "my web app"}'


def test_rejects_say_which_file_it_was(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "images", {"a b": 12, "c": 12})
    (folder / "a b" / "deep").mkdir()
    (folder / "a b" / "deep" / "Zuppa calda.JPG").write_bytes(b"")
    prepare(PrepareSettings(source=f"folder:{folder}", out=tmp_path / "out", size=16, workers=1))
    lines = [orjson.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_bytes().splitlines()]
    assert [line["file"] for line in lines] == ["a b/deep/Zuppa calda.JPG"]
