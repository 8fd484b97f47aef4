"""Prepare is interrupted in every way, continues, and the result is the same, byte for byte."""

from __future__ import annotations

import errno
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from food101_fast.errors import UserError
from food101_fast.prepare import PrepareSettings, prepare, unfinished
from food101_fast.prepare.executors import InProcess
from food101_fast.shards.verify import verify
from food101_fast.storage import Folder, LocalFolder
from tests.conftest import contents, encoded, picture, write_folder

INJECT = Path(__file__).parent / "inject"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 20 pictures with something to drop for every reason that is cheap to make."""
    folder = write_folder(tmp_path_factory.mktemp("images") / "set", {"ramen": 20, "tacos": 20, "waffles": 20})
    (folder / "ramen" / "empty.jpg").write_bytes(b"")
    (folder / "tacos" / "page.jpg").write_bytes(b"<html>")
    (folder / "tacos" / "again.jpg").write_bytes((folder / "tacos" / "003.jpg").read_bytes())
    (folder / "waffles" / "half.jpg").write_bytes(encoded(picture(99, 90, 90))[:-300])
    return folder


def arguments(source: Path, out: Path | str) -> list[str]:
    flags = f"--source folder:{source} --size 24 --samples-per-shard 6 --workers 2"
    return [sys.executable, "-m", "food101_fast.prepare", "--out", str(out), *flags.split()]


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run that is never interrupted leaves."""
    out = tmp_path_factory.mktemp("whole") / "out"
    subprocess.run(arguments(source, out), check=True, capture_output=True)
    assert not list(verify(LocalFolder(out)))
    return contents(out)


def run_with_kill(
    command: list[str], below: Path, after: int, role: str, whom: str
) -> subprocess.CompletedProcess[str]:
    """Run in a group of its own; returns when every process of it has closed its output, so when all are gone."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(INJECT), *sys.path]),
        "KILL_AFTER": str(after),
        "KILL_BELOW": str(below),
        "KILL_ROLE": role,
        "KILL_WHOM": whom,
    }
    return subprocess.run(command, env=environment, capture_output=True, text=True, start_new_session=True, timeout=120)


def shards_with_records(out: Path) -> dict[str, int]:
    """The inode of each shard that is stored: another one means that it was written again."""
    records = out.glob(".unfinished/*.tar.json")
    names = [record.name.removesuffix(".json") for record in records]
    return {name: (out / name).stat().st_ino for name in names}


def kill_and_continue(source: Path, whole: dict[str, bytes], folder: Path, kills: int) -> int:
    """Kill runs `kills` times, with a new folder when one finished; the number of shards that were reused."""
    rng = random.Random(folder.name)
    kept = 0
    for number in itertools.count():
        out = folder / str(number)
        while True:
            before = shards_with_records(out)
            # A worker stores a shard in nine steps; the parent takes some fifty at the end.
            role, most = rng.choice([("any", 18), ("worker", 30), ("parent", 50)])
            after = rng.randint(1, most) if kills else 1_000_000
            process = run_with_kill(arguments(source, out), out, after, role, rng.choice(["group", "group", "self"]))
            assert "Traceback" not in process.stderr
            if (out / "manifest.json").exists():
                assert not [line for line in verify(LocalFolder(out)) if ".unfinished" not in line]
                assert {name: (out / name).stat().st_ino for name in before} == before
                kept += len(before)
            if process.returncode == 0:
                break
            assert process.returncode in (-signal.SIGKILL, 2), process.stderr
            kills -= 1
        assert contents(out) == whole
        if not kills:
            return kept
    raise AssertionError


@pytest.mark.parametrize("kills", [2, pytest.param(40, marks=pytest.mark.slow)])
def test_killed_anywhere_it_continues_and_ends_the_same(
    source: Path, whole: dict[str, bytes], tmp_path: Path, kills: int
) -> None:
    with ThreadPoolExecutor(2) as pool:
        rounds = [pool.submit(kill_and_continue, source, whole, tmp_path / name, kills // 2) for name in ("a", "b")]
        assert sum(each.result() for each in rounds) > 0


def test_a_killed_worker_is_one_sentence(source: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = run_with_kill(arguments(source, out), out, after=12, role="worker", whom="self")
    assert process.returncode == 2
    assert process.stderr.splitlines()[-1].startswith("error: a worker process died")
    assert shards_with_records(out)
    subprocess.run(arguments(source, out), check=True, capture_output=True)
    assert contents(out) == whole


def test_workers_end_when_their_parent_is_killed(source: Path, tmp_path: Path) -> None:
    """Their output is inherited: `run` returns only when the last of them is gone."""
    out = tmp_path / "out"
    process = run_with_kill(arguments(source, out), out, after=3, role="parent", whom="self")
    assert process.returncode == -signal.SIGKILL


def test_ctrl_c_keeps_what_is_finished(source: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with subprocess.Popen(arguments(source, out), stderr=subprocess.PIPE, start_new_session=True) as process:
        assert process.stderr is not None
        while not shards_with_records(out) and process.poll() is None:
            pass
        os.killpg(process.pid, signal.SIGINT)
        shown = process.stderr.read().decode()
    assert b"Traceback" not in shown.encode()
    if process.returncode != 0:  # it may have finished
        assert process.returncode == 130
        assert "run the same command again to continue" in shown
    subprocess.run(arguments(source, out), check=True, capture_output=True)
    assert contents(out) == whole


@pytest.mark.parametrize("moment", ["hash:", ""])
def test_ctrl_c_before_the_first_shard_leaves_nothing(source: Path, tmp_path: Path, moment: str) -> None:
    out = tmp_path / "out"
    with subprocess.Popen(arguments(source, out), stderr=subprocess.PIPE, start_new_session=True) as process:
        assert process.stderr is not None
        shown = ""
        while moment not in shown or not Path(f"/proc/{process.pid}/task").exists():
            shown += process.stderr.read(1).decode()
        os.killpg(process.pid, signal.SIGINT)
        shown += process.stderr.read().decode()
    if moment:
        assert process.returncode == 130
        assert shown.endswith("interrupted\n")
        assert "Traceback" not in shown
    assert not out.exists()


def test_a_full_disk_is_one_sentence(source: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    """No file may grow past 8 kB, which is less than a shard."""
    out = tmp_path / "out"
    limited = ["bash", "-c", 'ulimit -f 8; exec "$@"', "bash", *arguments(source, out)]
    process = subprocess.run(limited, capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert "could not be written (File too large); give another folder for --out" in process.stderr.splitlines()[-1]
    assert not list(tmp_path.rglob("*.tmp"))
    assert not (out / "manifest.json").exists()
    subprocess.run(arguments(source, out), check=True, capture_output=True)
    assert contents(out) == whole


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")
def test_a_small_file_system_that_fills_up(source: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    size = sum(map(len, whole.values())) // 2
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(tmp_path)], check=False)
    if mount.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        out = tmp_path / "out"
        process = subprocess.run(arguments(source, out), capture_output=True, text=True, check=False)
        assert process.returncode == 2
        assert "No space left on device" in process.stderr.splitlines()[-1]
        finished = shards_with_records(out)
        assert finished
        subprocess.run(["mount", "-o", "remount,size=50m", str(tmp_path)], check=True)
        subprocess.run(arguments(source, out), check=True, capture_output=True)
        assert contents(out) == whole
        assert {name: (out / name).stat().st_ino for name in finished} == finished
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize(
    "failing", ["settings.json", "train-000001.tar", "rejects.jsonl", "samples.png", "manifest.json"]
)
def test_a_disk_that_fails_at_any_file(
    source: Path, whole: dict[str, bytes], tmp_path: Path, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = PrepareSettings(source=f"folder:{source}", out=tmp_path / "out", size=24, samples_per_shard=6)
    monkeypatch.setattr("food101_fast.prepare.job.LocalPool", lambda workers: InProcess())  # which sees the patch
    with monkeypatch.context() as patch:
        write = LocalFolder.write

        def fail(folder: LocalFolder, name: str, content: bytes) -> None:
            if name.endswith(failing):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            write(folder, name, content)

        patch.setattr(LocalFolder, "write", fail)
        with pytest.raises(UserError, match="Input/output error"):
            prepare(settings)
    assert not (tmp_path / "out" / "manifest.json").exists()
    for shard in shards_with_records(tmp_path / "out"):  # a bit of each goes wrong before the next run
        content = bytearray((tmp_path / "out" / shard).read_bytes())
        content[700] ^= 1
        (tmp_path / "out" / shard).write_bytes(content)
    prepare(settings)
    assert contents(tmp_path / "out") == whole


def test_the_second_of_two_writers_is_refused(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with LocalFolder(out).lock(unfinished.LOCK_NAME):
        process = subprocess.run(arguments(source, out), capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert process.stderr.splitlines()[-1].startswith("error: another process is writing into")


def test_two_writers_at_once_leave_one_whole_folder(source: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    pair = [subprocess.Popen(arguments(source, out), stderr=subprocess.PIPE) for _ in range(2)]
    shown = [process.communicate()[1].decode() for process in pair]
    codes = sorted(process.returncode for process in pair)
    assert codes in ([0, 2], [0, 0]), shown  # both, if the second came when the first was done
    assert contents(out) == whole


def test_a_target_that_cannot_be_written_is_one_sentence(source: Path) -> None:
    process = subprocess.run(arguments(source, "/proc/out"), capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert process.stderr.splitlines()[-1].startswith("error: /proc/out could not be written (")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system read-only")
def test_a_read_only_file_system_is_one_sentence(source: Path, tmp_path: Path) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", str(tmp_path)], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        process = subprocess.run(arguments(source, tmp_path / "out"), capture_output=True, text=True, check=False)
        assert process.returncode == 2
        assert "Read-only file system" in process.stderr.splitlines()[-1]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.fixture
def own_source(source: Path, tmp_path: Path) -> Path:
    """A copy of the source that a test may damage."""
    return shutil.copytree(source, tmp_path / "set")


def vanish(path: Path) -> None:
    path.unlink()


def become_unreadable(path: Path) -> None:
    path.unlink()
    path.mkdir()


def change(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize(
    ("accident", "message"),
    [(vanish, "cannot be read"), (become_unreadable, "cannot be read"), (change, "changed while prepare was reading")],
)
def test_a_source_file_that_is_lost_on_the_way(
    own_source: Path, tmp_path: Path, accident: Callable[[Path], None], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = PrepareSettings(source=f"folder:{own_source}", out=tmp_path / "out", size=24, workers=2)
    whole_settings = PrepareSettings(source=f"folder:{own_source}", out=tmp_path / "whole", size=24, workers=2)
    prepare(whole_settings)
    lost = own_source / "ramen" / "007.jpg"
    data = lost.read_bytes()
    with monkeypatch.context() as patch:
        start = unfinished.write_origin

        def start_then_lose(folder: Folder, origin: unfinished.Origin) -> None:
            start(folder, origin)
            accident(lost)

        patch.setattr(unfinished, "write_origin", start_then_lose)
        with pytest.raises(UserError, match=message):
            prepare(settings)
    assert not (tmp_path / "out" / "manifest.json").exists()
    if lost.is_dir():
        lost.rmdir()
    lost.write_bytes(data)
    prepare(settings)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
