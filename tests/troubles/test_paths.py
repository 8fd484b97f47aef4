r"""Paths with `~`, brackets, `#`, `?`, `%` and spaces, names that are not UTF-8, and zip files.

Public reports: fsspec/filesystem_spec#838 and #1476 (brackets are patterns), hooram/ownphotos#112,
arsenetar/dupeguru#335, cloud-gov/pages-build-container#98 ("surrogates not allowed").
"""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from food101_fast.cli import expand_home
from food101_fast.errors import UserError
from food101_fast.prepare import PrepareSettings, prepare
from food101_fast.shards import ShardSet
from food101_fast.shards.verify import verify
from food101_fast.storage import LocalFolder, RemoteFolder, exact, open_folder, readable
from food101_fast.storage.zipped import ZipFolder
from tests.conftest import contents, encoded, picture, write_folder

Command = Callable[..., tuple[int, str, str]]
FLAGS = ("--size", "32", "--samples-per-shard", "9", "--workers", "1")
needs_bytes = pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux only")


# Names that are not UTF-8.


@given(st.binary(min_size=1, max_size=20) | st.text(r"\x5ce9a", min_size=1).map(str.encode))
def test_every_name_is_spelled_in_unicode_and_found_again(name: bytes) -> None:
    text = os.fsdecode(name)
    assert exact(readable(text)) == text
    readable(text).encode("utf-8")
    assert (readable(text) == text) or "\\x" in readable(text)


@pytest.mark.parametrize("name", ["ramen", "café", "C:\\xylophone", "50 % $\\alpha$", "拉麺 🍜", "\\x41"])
def test_usual_names_are_unchanged(name: str) -> None:
    assert readable(name) == exact(name) == name


@needs_bytes
def test_prepare_with_names_that_are_not_utf8(tmp_path: Path, command: Command) -> None:
    root = os.path.join(os.fsencode(tmp_path), b"fotos\xe9")
    for number, name in enumerate([b"caf\xe9", b"cr\xe8me", "crème".encode()]):
        os.makedirs(os.path.join(root, name))
        for position in range(10):
            with open(os.path.join(root, name, b"\xff%d.jpg" % position), "wb") as file:
                file.write(encoded(picture(100 * number + position, 40, 40)))
    with open(os.path.join(root, b"caf\xe9", b"bad\xe0.jpg"), "wb") as file:
        file.write(b"no picture")
    out = os.fsdecode(os.path.join(os.fsencode(tmp_path), b"out\xe9"))
    code, printed, err = command("prepare", "--source", f"folder:{os.fsdecode(root)}", "--out", out, *FLAGS)
    assert code == 0, err
    assert "30 images of 3 classes" in printed
    shards = ShardSet.open(out)
    assert shards.classes == ("caf\\xe9", "cr\\xe8me", "crème")
    assert shards.manifest.source.endswith("/fotos\\xe9")
    (reject,) = (orjson.loads(line) for line in (Path(out) / "rejects.jsonl").read_bytes().splitlines())
    assert reject["file"] == "caf\\xe9/bad\\xe0.jpg"
    assert not list(verify(open_folder(out)))
    assert ShardSet.open(shards.location).manifest == shards.manifest  # as it is written into a run
    again, _, err = command("prepare", "--source", f"folder:{os.fsdecode(root)}", "--out", out, *FLAGS)
    assert again == 0, err


@needs_bytes
def test_predict_names_such_files(tmp_path: Path, tiny_run: Path, command: Command) -> None:
    folder = os.path.join(os.fsencode(tmp_path), b"\xe9")
    os.makedirs(folder)
    with open(os.path.join(folder, b"\xe8.jpg"), "wb") as file:
        file.write(encoded(picture(1, 40, 40)))
    for flags in ([], ["--json"]):
        code, out, err = command("predict", "--run", str(tiny_run), "--device", "cpu", os.fsdecode(folder), *flags)
        assert code == 0, err
        text = orjson.loads(out)["image"] if flags else out
        assert "\\xe9/\\xe8.jpg" in text


def test_what_a_terminal_can_not_show_is_escaped() -> None:
    code = "from food101_fast.cli import exit_with; exit_with(lambda arguments: print('拉麺 \\udce9'))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "\\u62c9\\u9eba \\udce9\n"


# The user's folder, and characters with a meaning elsewhere.


@pytest.mark.parametrize(
    ("argument", "expanded"),
    [
        ("~/w", "/home/u/w"),
        ("~", "/home/u"),
        ("--out=~/w", "/home/u/w"),
        ("folder:~/w", "folder:/home/u/w"),
        ("--source=folder:~/w", "--source=folder:/home/u/w"),
        ("~/w/train-{0..9}.tar", "/home/u/w/train-{0..9}.tar"),
        ("backup~", "backup~"),
        ("a/~/b", "a/~/b"),
        ("~other", "~other"),
        ("s3://bucket/~/w", "s3://bucket/~/w"),
    ],
)
def test_the_users_folder(monkeypatch: pytest.MonkeyPatch, argument: str, expanded: str) -> None:
    monkeypatch.setenv("HOME", "/home/u")
    before, equals, value = expanded.rpartition("=")
    assert expand_home(argument) in (expanded, f"--out={value}" if not equals else f"{before}={value}")


def test_commands_and_functions_know_the_users_folder(
    tiny_folder: Path, tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "photos").symlink_to(tiny_folder)
    code, _, err = command("prepare", "--source", "folder:~/photos", "--out", "~/out", *FLAGS)
    assert code == 0, err
    prepare(PrepareSettings(source="folder:~/photos", out="~/other", size=32, samples_per_shard=9, workers=1))
    for name in ("out", "other"):
        assert (tmp_path / name / "train-000000.tar").read_bytes() == (tiny_path / "train-000000.tar").read_bytes()
        assert ShardSet.open(f"~/{name}").classes == ("apple pie", "ramen", "tacos")
    assert command("shards", "verify", "~/out")[0] == 0
    for name in ("manifest.json", *(path.name for path in (tmp_path / "out").glob("*.index.npy"))):
        (tmp_path / "out" / name).unlink()
    code, _, err = command("shards", "index", "~/out/train-{000000..000001}.tar", "~/out/val-*.tar", *FLAGS[:2])
    assert code == 0, err


ODD = ["set [v2]", "a*b?", "50% #1 & more; 'x'", "{0..3}", "-dash", ".hidden", "tab\there", "拉麺 🍜"]


@pytest.mark.parametrize("name", ODD)
def test_characters_in_paths_mean_themselves(
    tiny_folder: Path, tiny_path: Path, tmp_path: Path, name: str, command: Command
) -> None:
    source, out = tmp_path / name / "photos", tmp_path / name / "out"
    source.parent.mkdir()
    source.symlink_to(tiny_folder)
    (tmp_path / "v").mkdir()  # what the pattern `set [v2]` must not find
    code, _, err = command("prepare", "--source", f"folder:{source}", "--out", str(out), *FLAGS)
    assert code == 0, err
    assert (out / "train-000000.tar").read_bytes() == (tiny_path / "train-000000.tar").read_bytes()
    assert command("shards", "verify", str(out))[0] == 0
    assert len(ShardSet.open(out).split("train")[0]) == 32
    tars = out.parent / "tars"
    tars.mkdir()
    for tar in out.glob("*.tar"):
        tar.rename(tars / tar.name)
    code, _, err = command("shards", "index", str(tars / "train-000000.tar"), str(tars / "v*.tar"), *FLAGS[:2])
    assert code == 0, err
    assert set(ShardSet.open(tars).manifest.splits) == {"train", "val"}


@pytest.mark.parametrize("name", ["set [v2]", "a*b?"])
def test_a_bucket_removes_what_is_named_and_nothing_else(tmp_path: Path, name: str) -> None:
    folder = RemoteFolder(f"memory://{tmp_path.name}/{name}")
    other = RemoteFolder(f"memory://{tmp_path.name}/set v")
    for each in (folder, other):
        each.write("a[1].tar", b"1")
        each.write("a1.tar", b"2")
    with folder.lock("lock"):
        assert "lock" in folder.files()
    folder.remove(["a[1].tar", "missing[1].tar"])
    assert folder.files() == {"a1.tar": 1}
    assert other.files() == {"a1.tar": 1, "a[1].tar": 1}


# Zip files.


def zipped(folder: Path, path: Path, prefix: str = "", **extra: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, prefix + file.relative_to(folder).as_posix())
        for name, content in extra.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("prefix", ["", "photos/", "data/photos/"], ids=["plain", "wrapped", "wrapped twice"])
@pytest.mark.parametrize("workers", [1, 2])
def test_prepare_reads_a_zip_file_as_its_folder(
    tiny_folder: Path, tiny_path: Path, tmp_path: Path, prefix: str, workers: int
) -> None:
    extra = {"README.txt": b"text", f"__MACOSX/{prefix}ramen/._000.jpg": b"attributes"}
    path = zipped(tiny_folder, tmp_path / "my photos.ZIP", prefix, **extra)
    settings = PrepareSettings(
        source=f"folder:{path}", out=tmp_path / "out", size=32, samples_per_shard=9, workers=workers
    )
    manifest = prepare(settings)
    assert manifest.classes == ("apple pie", "ramen", "tacos")
    for shard in tiny_path.glob("*.tar"):
        assert (tmp_path / "out" / shard.name).read_bytes() == shard.read_bytes()
    assert prepare(settings) == manifest


def test_a_folder_in_a_zip_file_and_a_zip_file_behind_a_url(tiny_folder: Path, tmp_path: Path) -> None:
    path = zipped(tiny_folder, tmp_path / "set [v2].zip", "a/")
    zipped(tiny_folder, path.with_name("more.zip"), "b/")
    expected = LocalFolder(tiny_folder).files()
    inside = open_folder(f"{path}/a")
    assert isinstance(inside, ZipFolder)
    for folder in (inside, pickle.loads(pickle.dumps(inside)), open_folder(f"zip://a::{path}")):
        assert folder.files() == expected
        assert folder.subfolders() == ["apple pie", "ramen", "tacos"]
        assert folder.read("ramen/003.jpg") == (tiny_folder / "ramen" / "003.jpg").read_bytes()
        assert folder.read("ramen/003.jpg", 2, 9) == (tiny_folder / "ramen" / "003.jpg").read_bytes()[2:9]
    assert not open_folder(f"{path}/nothing").exists()


def test_backslashes_of_windows_are_folders(tmp_path: Path) -> None:
    path = tmp_path / "w.zip"
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("x")
        info.filename = "ramen\\1.jpg"
        archive.writestr(info, b"1")
        archive.writestr("tacos/1.jpg", b"2")
    assert open_folder(path).files() == {"ramen/1.jpg": 1, "tacos/1.jpg": 1}


def test_zip_files_that_can_not_be_read_are_one_sentence(tiny_folder: Path, tmp_path: Path) -> None:
    whole = zipped(tiny_folder, tmp_path / "whole.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[:-100])
    with pytest.raises(UserError, match=r"cut\.zip can't be opened as a zip file .* copy it again"):
        open_folder(tmp_path / "cut.zip")
    start = whole.index(b"003.jpg") + 200
    (tmp_path / "bad.zip").write_bytes(whole[:start] + bytes(50) + whole[start + 50 :])
    with pytest.raises(UserError, match=r"the image .*bad\.zip/.* cannot be read"):
        prepare(PrepareSettings(source=f"folder:{tmp_path / 'bad.zip'}", out=tmp_path / "out", size=32, workers=1))
    with pytest.raises(UserError, match="other files"):
        prepare(PrepareSettings(source="demo:", out=tmp_path / "whole.zip", size=32, workers=1))
    with pytest.raises(UserError, match="can't be opened"):
        open_folder(f"zip://::{tmp_path}/cut.zip")
    doubled = io.BytesIO()
    with zipfile.ZipFile(doubled, "w") as archive:
        archive.writestr("ramen/1.jpg", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("ramen/1.jpg", b"2")
    (tmp_path / "twice.zip").write_bytes(doubled.getvalue())
    with pytest.raises(UserError, match=r"has the file ramen/1\.jpg twice"):
        open_folder(tmp_path / "twice.zip")


def test_a_zip_file_is_only_read(tiny_folder: Path, tmp_path: Path) -> None:
    folder = open_folder(zipped(tiny_folder, tmp_path / "a.zip"))
    before = contents(tmp_path)
    for way in (lambda: folder.write("x", b""), lambda: folder.remove(["ramen/003.jpg"])):
        with pytest.raises(OSError, match="only read"):
            way()
    with pytest.raises(UserError, match="only read"):
        folder.lock("lock")
    write_folder(tmp_path / "folder.zip", {"ramen": 1})  # a folder with that name is a folder
    assert isinstance(open_folder(tmp_path / "folder.zip"), LocalFolder)
    assert contents(tmp_path / "folder.zip")
    assert {name: content for name, content in contents(tmp_path).items() if "folder.zip" not in name} == before
