"""Folders on a disk and behind a URL keep the same promises."""

from __future__ import annotations

import errno
import json
import os
import pickle
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from food101_fast.errors import UserError
from food101_fast.storage import Folder, LocalFolder, RemoteFolder, open_folder, writing


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    return open_folder(tmp_path / "folder" if request.param == "disk" else f"memory://{tmp_path.name}/folder")


def test_what_is_written_is_there(folder: Folder) -> None:
    assert not folder.exists()
    assert folder.files() == {}
    folder.write("b/c/2.txt", b"second")
    folder.write("a.txt", bytearray(b"first"))
    folder.write(".hidden", memoryview(b""))
    folder.write("a.txt", b"first again")
    assert folder.exists()
    assert folder.files() == {".hidden": 0, "a.txt": 11, "b/c/2.txt": 6}
    assert folder.subfolders() == ["b"]
    assert folder.read("a.txt") == b"first again"
    assert folder.read("a.txt", 6, 9) == b"aga"
    assert folder.read("a.txt", 6) == b"again"
    folder.remove(["b/c/2.txt", "never there"])
    assert list(folder.files()) == [".hidden", "a.txt"]
    with pytest.raises(FileNotFoundError):
        folder.read("b/c/2.txt")
    assert pickle.loads(pickle.dumps(folder)).read("a.txt") == b"first again"


def test_a_file_that_cannot_be_finished_leaves_the_old_one(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    folder.write("a.txt", b"old")
    with pytest.raises(TypeError):
        folder.write("a.txt", "not bytes")  # type: ignore[arg-type]
    assert folder.files() == {"a.txt": 3}


def test_links_are_followed_but_never_in_circles(tmp_path: Path) -> None:
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "images" / "a" / "1.jpg").write_bytes(b"1")
    (tmp_path / "images" / "b").symlink_to(tmp_path / "images" / "a")
    (tmp_path / "images" / "a" / "up").symlink_to(tmp_path / "images")
    (tmp_path / "images" / "gone").symlink_to(tmp_path / "nowhere")
    assert LocalFolder(tmp_path / "images").files() == {"a/1.jpg": 1, "b/1.jpg": 1}


def test_only_one_writer_holds_a_folder(folder: Folder) -> None:
    with folder.lock("state/lock"):
        with pytest.raises(UserError, match="is writing into"), open_folder(folder.url).lock("state/lock"):
            pass
        assert list(folder.files()) == ["state/lock"]
    with folder.lock("state/lock"):
        pass
    assert folder.files() == {}


def test_a_lock_on_a_disk_ends_with_its_process(tmp_path: Path) -> None:
    code = (
        "import os; from food101_fast.storage import open_folder; "
        f"lock = open_folder({str(tmp_path)!r}).lock('lock'); lock.__enter__(); os.abort()"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert (tmp_path / "lock").exists()
    with LocalFolder(tmp_path).lock("lock"):
        pass


@pytest.mark.parametrize("content", [b"", b"[]", b'{"token": 3}'])
def test_a_damaged_lock_in_a_bucket_locks_nothing(tmp_path: Path, content: bytes) -> None:
    folder = RemoteFolder(f"memory://{tmp_path.name}")
    folder.write("lock", content)
    with folder.lock("lock"):
        pass
    assert folder.files() == {}


@pytest.mark.parametrize(
    ("number", "advice", "sentence"),
    [
        (errno.ENOSPC, "or give another --out", "free space there, or give another --out"),
        (errno.EDQUOT, "then run again", "free space there, then run again"),
        (errno.EROFS, "or give another --out", "make it writable, or give another --out"),
        (errno.EACCES, "then run again", "make it writable, then run again"),
        (errno.EIO, "or give another --out", "give another --out"),
        (errno.EIO, "then run again", "run again"),
    ],
)
def test_a_disk_that_fails_is_one_sentence(number: int, advice: str, sentence: str) -> None:
    with pytest.raises(UserError) as caught, writing("shards", advice):
        raise OSError(number, os.strerror(number))
    assert str(caught.value) == f"shards could not be written ({os.strerror(number)}); {sentence}"


@pytest.mark.parametrize(
    ("holder", "free"),
    [
        ({"host": "elsewhere", "process": 1, "age": 10}, False),
        ({"host": "elsewhere", "process": 1, "age": 1000}, True),
        ({"host": socket.gethostname(), "process": os.getpid(), "age": 10}, False),
        ({"host": socket.gethostname(), "process": 2**22 + 1, "age": 10}, True),  # above the highest number there is
    ],
)
def test_a_lock_in_a_bucket_is_taken_over_from_the_dead(tmp_path: Path, holder: dict[str, Any], free: bool) -> None:
    folder = RemoteFolder(f"memory://{tmp_path.name}")
    lock = {"token": "?", "host": holder["host"], "process": holder["process"], "renewed": time.time() - holder["age"]}
    folder.write("lock", json.dumps(lock).encode())
    if free:
        with folder.lock("lock"):
            pass
        assert folder.files() == {}
    else:
        with pytest.raises(UserError, match=f"process {holder['process']} on {holder['host']}"), folder.lock("lock"):
            pass
        assert json.loads(folder.read("lock")) == lock


def test_a_url_with_one_slash_is_not_taken_for_a_folder() -> None:
    with pytest.raises(UserError, match="has one slash after the colon"):
        open_folder("s3:/bucket/shards")
