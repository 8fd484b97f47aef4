"""Paths as they are typed: a quoted `~`, folders with `[v2]` in their name, braces that are not closed.

Reports: huggingface/datasets#5757 (`~`), huggingface/datasets#7468 (brackets in the name of a folder).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from food101_fast.errors import UserError
from food101_fast.shards.foreign.find import find_tars
from tests.troubles.tars import index, pairs, write_tar


def test_a_quoted_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for number in range(2):
        write_tar(tmp_path / "w" / f"train-{number}.tar", pairs(2))
    for pattern in ("~/w/train-{0..1}.tar", "~/w/*.tar", "~/w/train-[01].tar"):
        assert list(find_tars([pattern], None).splits) == ["train-0.tar", "train-1.tar"]


@pytest.mark.parametrize("folder", ["data [v2]", "what?", "all*", "a[!b]", "{v2}", "{a,b}"])
@pytest.mark.parametrize("pattern", ["train-{0..1}.tar", "train-*.tar", "train-[0-9].tar", "train-0.tar"])
def test_folders_whose_names_look_like_patterns(tmp_path: Path, folder: str, pattern: str) -> None:
    for number in range(2):
        write_tar(tmp_path / folder / f"train-{number}.tar", pairs(2))
    write_tar(tmp_path / "data v" / "train-0.tar", pairs(2))  # what `data [v2]` matches as a pattern
    tars = find_tars([str(tmp_path / folder / pattern)], None)
    assert tars.folder.url == str(tmp_path / folder)
    assert list(tars.splits) == ["train-0.tar", "train-1.tar"][: 1 if pattern == "train-0.tar" else 2]


def test_files_whose_names_look_like_patterns(tmp_path: Path) -> None:
    names = ["train-{0..1}.tar", "train[v2]-0.tar", "train[v2]-1.tar", "train?.tar"]
    for name in names:
        write_tar(tmp_path / name, pairs(2))
    for name in names:
        assert list(find_tars([str(tmp_path / name)], None).splits) == [name]
    assert list(find_tars([str(tmp_path / "train[v2]-*.tar")], None).splits) == names[1:3]
    index(tmp_path / names[0])


def test_a_folder_whose_name_is_not_utf8_works_and_a_tar_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    write_tar(folder / "train.tar", pairs(3))
    write_tar(folder / os.fsdecode(b"train-\xe9.tar"), pairs(3))
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    for command, code, message in (
        (("index", folder / "train.tar", "--workers", "1"), 0, "read 3 = written 3"),
        (("show", folder), 0, r"caf\xe9: 3 images"),
        (("verify", folder), 0, "all as written"),
        (("index", folder / os.fsdecode(b"train-\xe9.tar")), 2, r"train-\xe9.tar is not UTF-8 text"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "food101_fast.shards", *command], env=environment, capture_output=True, check=False
        )
        assert done.returncode == code, done.stderr.decode()
        assert message in (done.stdout + done.stderr).decode()


def test_what_matches_nothing_is_one_sentence(tmp_path: Path) -> None:
    for name, message in (
        ("train-{0.tar", "the braces of .* are not closed"),
        ("train-{0..1}.tar", "there is no file"),
        ("[v2]/*.tar", "no file matches"),
        ("", "is a folder; give its tars"),
    ):
        with pytest.raises(UserError, match=message) as error:
            find_tars([str(tmp_path / name)], None)
        assert "\n" not in str(error.value)
