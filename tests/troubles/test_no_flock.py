"""Disks without `flock`: NFS without a lock daemon (ENOLCK), some FUSE (ENOSYS, EOPNOTSUPP).

Public reports: tox-dev/filelock#6, spack/spack#12501, anyvm-org/anyvm#35 ("No locks available").
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import filelock
import pytest

from food101_fast.errors import Notice, UserError
from food101_fast.prepare import PrepareSettings, prepare
from food101_fast.runs.run import locked_run
from food101_fast.storage import LocalFolder
from food101_fast.storage.locks import waiting_lock
from tests.conftest import contents

ERRORS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
DEAD = 2**22 + 1  # above the highest number that a process can have


def without_flock(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def flock(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.fixture(params=sorted(set(ERRORS)))
def no_flock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    without_flock(monkeypatch, request.param)


def without_flock_in_process(number: int, code: str) -> subprocess.CompletedProcess[str]:
    patch = f"import fcntl\ndef flock(*arguments): raise OSError({number}, 'no locks')\nfcntl.flock = flock\n"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    program = [sys.executable, "-c", patch + code]
    return subprocess.run(program, check=False, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    "number",
    [pytest.param(number, marks=[pytest.mark.slow] * (number != min(ERRORS))) for number in sorted(set(ERRORS))],
)
def test_prepare_says_so_once_and_goes_on(tiny_folder: Path, tiny_path: Path, tmp_path: Path, number: int) -> None:
    out = tmp_path / "out"
    flags = ["--size", "32", "--samples-per-shard", "9", "--workers", "1"]
    arguments = ["--source", f"folder:{tiny_folder}", "--out", str(out), *flags]
    imports = "from food101_fast.cli import exit_with\nfrom food101_fast.prepare.__main__ import main\n"
    done = without_flock_in_process(number, f"{imports}exit_with(main, {arguments})")
    said = [line for line in done.stderr.splitlines() if line.startswith("warning:")]
    assert (done.returncode, len(said)) == (0, 1), done.stderr
    assert f"the disk of {out} has no file locks" in said[0]
    assert ".py" not in done.stderr
    assert contents(out) == contents(tiny_path)


@pytest.mark.filterwarnings("ignore::food101_fast.errors.Notice")
@pytest.mark.usefixtures("no_flock")
def test_a_second_writer_is_refused_and_told_which_file_to_remove(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path / "out")
    with folder.lock("state/lock"):
        owner = tmp_path / "out" / "state" / "lock.owner"
        assert f"{os.getpid()}\n{socket.gethostname()}" in owner.read_text()
        with pytest.raises(UserError) as caught, folder.lock("state/lock"):
            pass
        assert str(caught.value) == (
            f"process {os.getpid()} on {socket.gethostname()} is writing into {folder.url}; wait until it has ended, "
            f"or give another --out; if it has ended, remove {owner}"
        )
    assert contents(tmp_path / "out") == {}
    with folder.lock("state/lock"):
        pass


@pytest.mark.filterwarnings("ignore::food101_fast.errors.Notice")
@pytest.mark.parametrize(("host", "free"), [(socket.gethostname(), True), ("elsewhere", False)])
def test_the_lock_of_a_dead_process_is_taken_over_on_its_host_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, free: bool
) -> None:
    without_flock(monkeypatch, errno.ENOLCK)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock.owner").write_text(f"{DEAD}\n{host}\n")
    if free:
        with locked_run(tmp_path / "run"):
            pass
        assert contents(tmp_path / "run") == {}
        return
    with pytest.raises(UserError, match=rf"process {DEAD} on elsewhere .* remove .*\.lock\.owner$"):
        locked_run(tmp_path / "run").__enter__()


@pytest.mark.filterwarnings("ignore::food101_fast.errors.Notice")
def test_a_killed_process_leaves_a_lock_that_the_next_one_takes_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import os\nfrom food101_fast.storage import open_folder\n"
    code += f"lock = open_folder({str(tmp_path)!r}).lock('lock')\nlock.__enter__()\nos.abort()"
    without_flock_in_process(errno.ENOLCK, code)
    assert (tmp_path / "lock.owner").exists()
    without_flock(monkeypatch, errno.ENOLCK)
    with LocalFolder(tmp_path).lock("lock"):
        pass
    assert contents(tmp_path) == {}


def test_the_cache_waits_and_says_for_whom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_flock(monkeypatch, errno.ENOSYS)
    (tmp_path / "a.lock.owner").write_text(f"{DEAD}\nelsewhere\n")

    class StoppedError(Exception):
        pass

    turns = 0

    def stopped() -> None:
        nonlocal turns
        turns += 1
        if turns == 2:
            raise StoppedError

    with (
        pytest.warns(Notice) as said,
        pytest.raises(StoppedError),
        waiting_lock(tmp_path / "a.lock", where=tmp_path, stopped=stopped),
    ):
        pass
    sentences = [str(each.message) for each in said]
    assert any(f"waiting for process {DEAD} on elsewhere" in sentence for sentence in sentences), sentences
    assert any(sentence.endswith(f"if it has ended, remove {tmp_path}/a.lock.owner") for sentence in sentences)


def test_other_errors_and_other_disks_lock_as_before(tmp_path: Path, tiny_folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        prepare(PrepareSettings(source=f"folder:{tiny_folder}", out=tmp_path / "out", size=32, workers=1))
    assert not list(tmp_path.rglob("*.owner"))
    with filelock.FileLock(tmp_path / "lock"), pytest.raises(UserError, match="another process"):
        LocalFolder(tmp_path).lock("lock").__enter__()
