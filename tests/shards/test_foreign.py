"""Tars that others wrote are read where they lie: every image as prepare would have stored it, or a reason."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import orjson
import pytest
import webdataset

from food101_fast.errors import DamagedDataError, UserError
from food101_fast.images import Rules, clean
from food101_fast.loader import ShardLoader
from food101_fast.prepare import PrepareSettings, prepare
from food101_fast.runs.recipe import Recipe
from food101_fast.shards import ShardSet
from food101_fast.shards.foreign import IndexOptions, write_index
from food101_fast.shards.verify import verify
from food101_fast.storage import LocalFolder
from food101_fast.train import train
from tests.conftest import contents, encoded, flip, picture

RULES = Rules(size=32)
LABELS = ("ramen", "tacos", "waffles")
Run = Callable[..., tuple[int, str, str]]


def image_of(kind: str, number: int) -> bytes:
    image = picture(number, 40 + number % 7, 36 + number % 5)
    if kind == "npy":
        stream = io.BytesIO()
        np.save(stream, np.asarray(image))
        return stream.getvalue()
    return encoded(image, {"jpg": "JPEG", "jpeg": "JPEG"}.get(kind, kind.upper()))


def label_of(form: str, number: int) -> dict[str, bytes]:
    if form == "cls":
        return {"cls": str(number % 3).encode()}
    value = {"json number": number % 3, "json text": LABELS[number % 3]}[form]
    return {"json": orjson.dumps({"id": number, "label": value})}


def write_tars(
    folder: Path, kind: str = "jpg", form: str = "cls", count: int = 12, names: str = "train-%02d.tar"
) -> list[bytes]:
    """Two tars as webdataset writes them, with members that are neither image nor label; returns the images."""
    folder.mkdir(parents=True, exist_ok=True)
    images = []
    for shard in range(2):
        with webdataset.TarWriter(str(folder / (names % shard)), encoder=False) as writer:
            for number in range(shard * count, (shard + 1) * count):
                images.append(image_of(kind, number))
                sample = {kind: images[-1], **label_of(form, number), "txt": b"a dish", "seg.png": b"no image"}
                writer.write({"__key__": f"deep/folder.v2/{number:04d}", **sample})
    return images


@pytest.mark.parametrize("kind", ["jpg", "jpeg", "png", "webp", "npy"])
@pytest.mark.parametrize("form", ["cls", "json number", "json text"])
def test_the_loader_gives_what_prepare_would_have_stored(tmp_path: Path, kind: str, form: str) -> None:
    images = write_tars(tmp_path, kind, form)
    before = contents(tmp_path)
    _, manifest = write_index([f"{tmp_path}/train-{{00..01}}.tar"], RULES)
    assert {name: content for name, content in contents(tmp_path).items() if name in before} == before
    assert manifest.classes == (LABELS if form == "json text" else ("0", "1", "2"))
    assert not list(verify(LocalFolder(tmp_path)))
    with pytest.raises(UserError, match="made by `shards index`"):
        ShardSet.open(tmp_path).webdataset("train")
    loader = ShardLoader(tmp_path, split="train", batch_size=7, drop_last=False, threads=2)
    seen = 0
    for batch in loader:
        for image, label, sample in zip(batch.images, batch.labels.tolist(), batch.ids.tolist(), strict=True):
            assert np.array_equal(image.permute(1, 2, 0), clean(images[sample], RULES).pixels)
            assert label == sample % 3
            seen += 1
    assert seen == len(images) == 24


def test_arrays_of_the_stored_size_are_read_as_raw_rows(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "val.tar", "w") as tar:
        for number in range(6):
            stream = io.BytesIO()
            np.save(stream, np.asarray(picture(number, 32, 32)))
            add(tar, f"{number}.npy", stream.getvalue())
            add(tar, f"{number}.cls", b"0" * (number + 1))  # so that rows have no constant distance
    _, manifest = write_index([f"{tmp_path}/*.tar"], RULES)
    assert manifest.encoding == "raw"
    split = ShardSet.open(tmp_path).split("val")
    assert all(np.array_equal(split[number], np.asarray(picture(number, 32, 32))) for number in range(6))


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_tars_of_other_programs_are_read(tmp_path: Path, form: int) -> None:
    """Long names, folders, a leading ./, and files that belong to no sample."""
    with tarfile.open(tmp_path / "my-validation-0.tar", "w", format=form) as tar:
        folder = tarfile.TarInfo("./pictures")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        add(tar, "./pictures/._junk", b"of a Mac")
        for number in range(4):
            key = f"./pictures/{'é' * 90}{number}"
            add(tar, f"{key}.JPG", image_of("jpg", number))
            add(tar, f"{key}.cls", b" 1\n")
    _, manifest = write_index([str(tmp_path / "my-validation-0.tar")], RULES, classes=["a", "b"])
    assert manifest.splits["val"].class_counts == (0, 4)
    assert np.array_equal(ShardSet.open(tmp_path).split("val")[2], clean(image_of("jpg", 2), RULES).pixels)


def test_what_cannot_be_used_is_listed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        for number in range(3):
            add(tar, f"{number}.jpg", image_of("jpg", number))
            add(tar, f"{number}.cls", b"0")
        add(tar, "only-label.cls", b"0")
        add(tar, "only-image.jpg", image_of("jpg", 5))
        add(tar, "half.jpg", encoded(picture(7, 90, 90))[:-300])
        add(tar, "half.cls", b"0")
        add(tar, "page.png", b"<html>")
        add(tar, "page.cls", b"0")
    _, manifest = write_index([str(tmp_path / "train.tar")], RULES)
    lines = [orjson.loads(line) for line in (tmp_path / "rejects.jsonl").read_bytes().splitlines()]
    assert {line["key"]: line["reason"] for line in lines} == {
        "only-label": "no-image",
        "only-image": "no-label",
        "half": "truncated",
        "page": "not-an-image",
    }
    assert manifest.read == 7
    assert manifest.rejects == {"no-image": 1, "no-label": 1, "not-an-image": 1, "truncated": 1}
    assert len(ShardSet.open(tmp_path).split("train")) == 3


def cut(path: Path, at: Callable[[bytes], int]) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: at(content)])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: cut(path, lambda c: len(c) - 10240), "without the mark of a tar's end|not a complete tar"),
        (lambda path: cut(path, lambda c: second_header(c)), "without the mark of a tar's end"),
        (lambda path: cut(path, lambda c: second_header(c) + 100), "not a complete tar|damaged header"),
        (lambda path: cut(path, lambda c: second_header(c) - 520), "not a complete tar"),
        (lambda path: flip(path, 20), "not a complete tar"),
        (lambda path: flip(path, second_header(path.read_bytes()) + 20), "damaged header at byte"),
        (lambda path: path.write_bytes(b"\x1f\x8b" + bytes(600)), "is compressed"),
        (lambda path: path.unlink(), "can't be read|no file"),
    ],
)
def test_a_tar_that_is_not_whole_is_refused(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    write_tars(tmp_path, names="train-%d.tar")
    damage(tmp_path / "train-1.tar")
    with pytest.raises(UserError, match=message) as error:
        write_index([f"{tmp_path}/train-{{0..1}}.tar"], RULES)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "manifest.json").exists()


def second_header(content: bytes) -> int:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return tar.getmembers()[5].offset


@pytest.mark.parametrize(
    ("tars", "options", "message"),
    [
        (
            {"train.tar": {"1.jpg": b"x", "1.json": b'{"class": 3}'}},
            {},
            "no number or text in the field 'label'.*: class",
        ),
        ({"train.tar": {"1.jpg": b"x", "1.json": b"{"}}, {}, r"its \.json can't be read"),
        ({"train.tar": {"1.csv": b"x"}}, {}, "have no sample with an image and a label"),
        ({"part1.tar": {"1.jpg": b"", "1.cls": b"0"}}, {}, "does not say which split"),
        ({"train.tar": {"1.jpg": b"", "1.cls": b"5"}}, {"classes": ["a", "b"]}, "labels go from 5 to 5"),
        ({"train.tar": {"1.jpg": b"", "1.cls": b"-1"}}, {}, "its label is -1"),
        (
            {"train.tar": {"1.jpg": b"", "1.cls": b"pho"}},
            {"classes": ["a"]},
            "'pho' of .* is not among the 1 names",
        ),
        ({"train.tar": {"1.jpg": b"", "1.cls": b"pho", "2.jpg": b"", "2.cls": b"1"}}, {}, "some labels are numbers"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(
    tmp_path: Path, tars: dict[str, dict[str, bytes]], options: dict[str, list[str]], message: str
) -> None:
    for name, members in tars.items():
        with tarfile.open(tmp_path / name, "w") as tar:
            for member, content in members.items():
                add(tar, member, image_of("jpg", 1) if member.endswith("jpg") else content)
    with pytest.raises(UserError, match=message) as error:
        write_index([str(tmp_path / name) for name in tars], RULES, **options)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    assert not (tmp_path / "manifest.json").exists()


def test_other_folders_patterns_and_sets_are_refused(tiny_path: Path, tmp_path: Path) -> None:
    for patterns, message in (
        ([f"{tmp_path}/a/train.tar", "s3://bucket/train.tar"], "are in 2 folders"),
        ([f"{tmp_path}/train-*.tar"], "no file matches"),
        ([f"{tmp_path}/train.tar.gz"], "does not end in"),
        ([f"{tmp_path}/train.tar"] * 2, "given twice"),
        ([f"{tiny_path}/train-*.tar"], "was written by prepare"),
    ):
        with pytest.raises(UserError, match=message):
            write_index(patterns, RULES)


def test_damage_after_indexing_is_found(tmp_path: Path) -> None:
    write_tars(tmp_path)
    write_index([f"{tmp_path}/*.tar"], RULES)
    span = np.load(tmp_path / "train-01.index.npy")[4]
    flip(tmp_path / "train-01.tar", int(span["offset"]) + 50)
    with pytest.raises(DamagedDataError, match=r"train-01\.tar: sample 4 \(deep/folder\.v2/0016\) at byte"):
        list(ShardLoader(tmp_path, split="train", batch_size=8))
    assert any("sample 4 at byte" in problem for problem in verify(LocalFolder(tmp_path)))


def test_workers_and_places_change_nothing(tmp_path: Path) -> None:
    write_tars(tmp_path)
    _, alone = write_index([f"{tmp_path}/train-{{00..01}}.tar"], RULES)
    again = IndexOptions(replace=True)
    _, together = write_index([f"{tmp_path}/train-{{00..01}}.tar"], RULES, again, workers=2)
    memory = fsspec.filesystem("memory")
    for path in tmp_path.glob("*.tar"):
        memory.pipe_file(f"/tars/{path.name}", path.read_bytes())
    try:
        _, remote = write_index(["memory://tars/train-{00..01}.tar"], RULES)
        assert alone == together == remote
        assert ShardSet.open("memory://tars", cache_dir=tmp_path / "cache").split("train")[3].any()
    finally:
        memory.rm("/tars", recursive=True)


def test_training_runs_on_them_as_they_are(tmp_path: Path, command: Run) -> None:
    write_tars(tmp_path / "set")
    write_tars(tmp_path / "set", names="valid-%02d.tar", count=6)
    tars = [f"{tmp_path}/set/{name}-{{00..01}}.tar" for name in ("train", "valid")]
    code, out, _ = command("shards", "index", *tars, "--size", "32", "--workers", "1")
    assert code == 0
    assert "train" in out
    recipe = Recipe(model="resnet18", weights="none", image_size=32, epochs=1, batch_size=8)
    metrics = train(ShardSet.open(tmp_path / "set"), tmp_path / "run", recipe, device="cpu").metrics
    assert len(metrics) == 1


def test_our_tars_can_be_indexed_again(tiny_folder: Path, tmp_path: Path) -> None:
    """Our own shards, without their index and manifest, are foreign tars like any other."""
    settings = PrepareSettings(source=f"folder:{tiny_folder}", out=tmp_path, size=32, samples_per_shard=9, workers=1)
    prepare(settings)
    ours = ShardSet.open(tmp_path)
    rows = [ours.split("train")[sample].copy() for sample in range(len(ours.split("train")))]
    for path in [*tmp_path.glob("*.npy"), tmp_path / "manifest.json"]:
        path.unlink()
    _, manifest = write_index([f"{tmp_path}/*.tar"], RULES)
    assert manifest.encoding == "raw"
    again = ShardSet.open(tmp_path).split("train")
    assert all(np.array_equal(again[sample], row) for sample, row in enumerate(rows))


def test_the_command_is_one_sentence_when_it_fails(tmp_path: Path, command: Run) -> None:
    code, _, err = command("shards", "index", f"{tmp_path}/train-*.tar")
    assert code == 2
    assert err.splitlines()[-1].startswith("error: no file matches")
    code, _, err = command("shards", "index", f"{tmp_path}/train.tar", "--classes", f"{tmp_path}/none.txt")
    assert code == 2
    assert "can't be read" in err.splitlines()[-1]
