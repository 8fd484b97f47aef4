"""Shards behind a URL: the same samples as on the disk, or an error; whatever the server, the disk and others do."""

from __future__ import annotations

import contextlib
import functools
import gc
import http.server
import multiprocessing
import os
import shutil
import subprocess
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest

from food101_fast.errors import DamagedDataError, UserError
from food101_fast.loader import ShardLoader
from food101_fast.shards import ShardSet, cache
from food101_fast.shards.cache import cache_settings
from food101_fast.storage import RemoteFolder
from tests.conftest import flip, serving

Fault = Callable[[bytes], bytes]


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder; `faults` change what is sent of a file, one each time it is asked for, and then no more."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.sent: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.folder = folder

    def handle_error(self, *_: object) -> None:
        """A client that goes away is nothing to print."""


class Handler(http.server.SimpleHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        path = self.server.folder / name
        if not path.is_file():
            self.send_error(404)
            return
        self.server.sent.append(name)
        content = path.read_bytes()
        faults = self.server.faults[name]
        sent = faults.pop(0)(content) if faults else content
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(sent)
        if len(sent) != len(content):
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tiny_path: Path) -> Iterator[Server]:
    server = Server(tiny_path)
    with serving(server):
        yield server


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_FIRST_DELAY", 0.001)


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def wrong(content: bytes) -> bytes:
    return content[:700] + bytes([content[700] ^ 1]) + content[701:]


def assert_same(remote: ShardSet, local: ShardSet, **options: object) -> None:
    batches = [
        list(ShardLoader(shards, split="train", batch_size=8, drop_last=False, **options))  # type: ignore[arg-type]
        for shards in (remote, local)
    ]
    assert [batch.ids.tolist() for batch in batches[0]] == [batch.ids.tolist() for batch in batches[1]]
    for ours, theirs in zip(*batches, strict=True):
        assert ours.images.equal(theirs.images)
        assert ours.labels.equal(theirs.labels)


@pytest.mark.parametrize("window", [None, 20])
def test_a_url_gives_what_the_folder_gives(
    server: Server, tiny_shards: ShardSet, tmp_path: Path, window: int | None
) -> None:
    remote = ShardSet.open(server.url, cache_dir=tmp_path)
    assert_same(remote, tiny_shards, window=window)
    assert_same(remote, tiny_shards, window=window)
    tars = [name for name in server.sent if name.endswith(".tar")]
    assert sorted(tars) == [entry.name for entry in tiny_shards.manifest.splits["train"].shards]  # once each
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_web_server_is_verified_but_not_listed(
    server: Server, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, err = command("shards", "verify", server.url)
    assert code == 0, err
    code, _, err = command("prepare", "--source", f"folder:{server.url}", "--out", str(tmp_path / "out"))
    assert (code, err.count("\n")) == (2, 1)
    assert "does not say what is in a folder" in err


def test_any_protocol_of_fsspec_will_do(tiny_path: Path, tiny_shards: ShardSet, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for path in tiny_path.glob("*.*"):
        memory.pipe_file(f"/anything/{path.name}", path.read_bytes())
    try:
        assert_same(ShardSet.open("memory://anything", cache_dir=tmp_path), tiny_shards, window=15)
        memory.pipe_file("/anything/train-000001.tar", b"short")
        with pytest.raises(DamagedDataError, match=r"train-000001\.tar has 5 bytes and the manifest says"):
            ShardSet.open("memory://anything", cache_dir=tmp_path).split("train")
    finally:
        memory.rm("/anything", recursive=True)


@pytest.mark.parametrize("fault", [half, wrong, lambda content: b""], ids=["dropped", "wrong bytes", "nothing"])
@pytest.mark.parametrize("name", ["train-000002.tar", "train-000002.index.npy"])
def test_a_fault_that_passes_is_got_over(
    server: Server, tiny_shards: ShardSet, tmp_path: Path, fault: Fault, name: str
) -> None:
    server.faults[name] = [fault] * 3
    assert_same(ShardSet.open(server.url, cache_dir=tmp_path), tiny_shards)
    assert server.sent.count(name) == 4


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        (half, UserError, r"train-000002\.tar could not be downloaded in 5 attempts"),
        (wrong, DamagedDataError, r"train-000002\.tar gave other bytes than its manifest describes, 5 times"),
    ],
)
def test_a_fault_that_stays_is_named(
    server: Server, tmp_path: Path, fault: Fault, kind: type[UserError], message: str
) -> None:
    server.faults["train-000002.tar"] = [fault] * 100
    loader = ShardLoader(ShardSet.open(server.url, cache_dir=tmp_path), split="train", batch_size=8)
    with pytest.raises(kind, match=message) as error:
        list(loader)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("train-000002.tar*"))[1:]  # but for its lock
    server.faults.clear()
    assert len(list(loader)) == len(loader)  # what was downloaded is kept, and the rest is there now


def test_a_shard_that_is_not_there_is_named(tiny_path: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_path, tmp_path / "copy"))
    (copy / "train-000001.tar").unlink()
    server = Server(copy)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        loader = ShardLoader(ShardSet.open(server.url, cache_dir=tmp_path / "cache"), split="train", batch_size=8)
        with pytest.raises(DamagedDataError, match=r"train-000001\.tar is missing"):
            list(loader)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_slow_server_is_waited_for(server: Server, tiny_shards: ShardSet, tmp_path: Path) -> None:
    """The answer comes only after the loader has asked for other shards as well: nothing gives up or goes wrong."""
    others = threading.Event()

    def slow(content: bytes) -> bytes:
        assert others.wait(60)
        return content

    def other(content: bytes) -> bytes:
        others.set()
        return content

    server.faults["train-000000.tar"] = [slow]
    server.faults["train-000003.tar"] = [other]
    assert_same(ShardSet.open(server.url, cache_dir=tmp_path), tiny_shards)


def test_a_poisoned_cache_is_downloaded_anew(server: Server, tiny_shards: ShardSet, tmp_path: Path) -> None:
    assert_same(ShardSet.open(server.url, cache_dir=tmp_path), tiny_shards)
    folder = tmp_path / tiny_shards.manifest.digest
    flip(folder / "train-000001.tar", 5000)
    flip(folder / "train-000002.index.npy", 140)
    (folder / "train-000003.tar").write_bytes(b"short")
    (folder / "train-000004.tar").write_bytes((folder / "train-000000.tar").read_bytes())
    before = len(server.sent)
    assert_same(ShardSet.open(server.url, cache_dir=tmp_path), tiny_shards)
    assert sorted(server.sent[before:]) == sorted(
        ["manifest.json", "train-000001.tar", "train-000002.index.npy", "train-000003.tar", "train-000004.tar"]
    )


def bytes_in(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*.*"):
        with contextlib.suppress(FileNotFoundError):  # renamed or removed in this moment
            size += path.stat().st_size
    return size


def test_the_limit_is_kept(server: Server, tiny_shards: ShardSet, tmp_path: Path) -> None:
    entries = tiny_shards.manifest.splits["train"].shards
    largest = max(entry.bytes for entry in entries)
    limit = 4 * largest
    assert sum(entry.bytes for entry in entries) > limit
    remote = ShardSet.open(server.url, cache_dir=tmp_path, cache_gb=limit / 1e9)
    loader = ShardLoader(remote, split="train", batch_size=4, window=9, drop_last=False)
    seen = set()
    for batch in loader:
        seen.update(batch.ids.tolist())
        assert bytes_in(tmp_path) <= limit + largest + 1000  # a shard may be in use that was to go
    assert seen == set(range(len(loader.split)))
    with pytest.raises(UserError, match=r"the cache is limited to .* are needed at a time"):
        ShardLoader(remote, split="train", batch_size=4)
    with pytest.raises(UserError, match="give a number above 0"):
        cache_settings(tmp_path, 0)


def test_what_others_push_out_at_once_is_downloaded_anew(
    server: Server, tiny_shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another process does that has no room: the first file of each name is gone as soon as it is in its place."""
    replace, pushed_out = Path.replace, set()

    def replace_and_lose(path: Path, target: Path) -> Path:
        result = replace(path, target)
        if target.suffix == ".tar" and target.name not in pushed_out:
            pushed_out.add(target.name)
            target.unlink()
        return result

    monkeypatch.setattr(Path, "replace", replace_and_lose)
    assert_same(ShardSet.open(server.url, cache_dir=tmp_path), tiny_shards)
    assert len(pushed_out) > 5


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")
def test_a_full_disk_is_one_sentence(server: Server, tmp_path: Path) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "none", str(tmp_path)], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        shards = ShardSet.open(server.url, cache_dir=tmp_path)
        with pytest.raises(UserError, match=r"the cache folder .* could not be written \(No space left on device\)"):
            list(ShardLoader(shards, split="train", batch_size=8))
        assert not list(tmp_path.rglob("*.tmp"))
    finally:
        gc.collect()  # whoever still maps a shard keeps the file system busy
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_what_a_killed_process_left_is_removed(server: Server, tiny_shards: ShardSet, tmp_path: Path) -> None:
    folder = tmp_path / tiny_shards.manifest.digest
    folder.mkdir()
    (folder / "train-000001.tar.12345.tmp").write_bytes(b"half")
    assert_same(ShardSet.open(server.url, cache_dir=tmp_path), tiny_shards)
    assert not list(tmp_path.rglob("*.tmp"))


def _epoch(url: str, directory: Path, rank: int, results: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    loader = ShardLoader(
        ShardSet.open(url, cache_dir=directory), split="train", batch_size=4, rank=rank, world_size=3, drop_last=False
    )
    results.put([sample for batch in loader for sample in batch.ids.tolist()])


def test_processes_share_the_cache(server: Server, tiny_shards: ShardSet, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    ranks = [context.Process(target=_epoch, args=(server.url, tmp_path, rank, results)) for rank in range(3)]
    for process in ranks:
        process.start()
    seen = [sample for _ in ranks for sample in results.get(timeout=120)]
    for process in ranks:
        process.join()
    assert sorted(seen) == list(range(len(tiny_shards.split("train"))))
    tars = [name for name in server.sent if name.endswith(".tar")]
    assert len(tars) == len(set(tars))


def test_leaving_early_stops_the_downloads(server: Server, tmp_path: Path) -> None:
    before = threading.active_count()
    release = threading.Event()

    def waits(content: bytes) -> bytes:
        release.wait(60)
        return content

    remote = ShardSet.open(server.url, cache_dir=tmp_path)
    loader = ShardLoader(remote, split="train", batch_size=1, window=9, threads=1, prefetch=1)
    first = list(loader.split.entries)
    batches = iter(loader)
    next(batches)
    for entry in first:
        server.faults[entry.name] = [waits]
    release.set()
    batches.close()
    assert threading.active_count() <= before + 2  # fsspec keeps one thread, the server one for each connection
    assert not list(tmp_path.rglob("*.tmp"))
    assert isinstance(remote.folder, RemoteFolder)
    assert np.unique([batch.ids.item() for batch in loader]).size == len(loader)


def test_labels_need_the_indexes_only(server: Server, tiny_shards: ShardSet, tmp_path: Path) -> None:
    remote = ShardSet.open(server.url, cache_dir=tmp_path)
    assert remote.split("train").labels.tolist() == tiny_shards.split("train").labels.tolist()
    assert not any(name.endswith(".tar") for name in server.sent)
    assert_same(remote, tiny_shards, repeat_threshold=0.5, window=20)
