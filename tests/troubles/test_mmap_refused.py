"""A machine that refuses memory maps, memory or open files: that is never the data's fault.

Public reports: manticoresoftware/manticoresearch#3253, m3db/m3#960, ClickHouse/ClickHouse#6732 (vm.max_map_count);
pytorch/pytorch#165532, facebookresearch/detectron2#3953 (too many open files).
"""

from __future__ import annotations

import errno
import mmap
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from food101_fast.errors import DamagedDataError, UserError
from food101_fast.images import Rules
from food101_fast.prepare.sources import FolderSource
from food101_fast.resources import machine_advice
from food101_fast.shards import ShardSet
from food101_fast.shards.foreign.options import IndexOptions
from food101_fast.shards.foreign.scan import scan_tar
from food101_fast.storage import LocalFolder, writing

# Opens the shards of the folder in argv[1] after `{}`; nothing that it needs is imported then.
PROGRAM = """
import mmap, os, resource, sys
from dataclasses import replace
from pathlib import Path
from food101_fast.cli import exit_with
from food101_fast.resources import machine_advice
from food101_fast.shards import ShardSet
from food101_fast.shards.mapped import open_shard

shards = ShardSet.open(sys.argv[1])
entry = shards.manifest.splits["train"].shards[0]
path = Path(sys.argv[1]) / entry.name
open_shard(path, entry, shards.manifest)

def command(arguments):
    global entry
    kept = []
    {}
    open_shard(path, entry, shards.manifest)

exit_with(command)
"""


def opened(folder: Path, limit: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-c", PROGRAM.replace("{}", limit), str(folder)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(program, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's limits")
@pytest.mark.parametrize(
    ("limit", "reason", "advice"),
    [
        pytest.param(
            "os.truncate(path, 8 << 30); entry = replace(entry, bytes=8 << 30); "
            "resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))",
            "Cannot allocate memory",
            "ulimit -v unlimited",
            id="ulimit -v",
        ),
        pytest.param(
            "most = int(Path('/proc/sys/vm/max_map_count').read_text())\n"
            "    if most > 200_000: most = 0\n"
            "    try:\n"
            "        for _ in range(most): kept.append(mmap.mmap(-1, 4096))\n"
            "    except OSError: pass\n"
            "    if not most: sys.exit(77)",
            "Cannot allocate memory",
            "vm.max_map_count",
            id="max_map_count",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
            "    try:\n"
            "        while True: kept.append(open(os.devnull))\n"
            "    except OSError: pass",
            "Too many open files",
            "ulimit -n 65536",
            id="ulimit -n",
        ),
    ],
)
def test_a_real_limit_is_one_sentence(tiny_folder: Path, tmp_path: Path, limit: str, reason: str, advice: str) -> None:
    from food101_fast.prepare import PrepareSettings, prepare

    prepare(PrepareSettings(source=f"folder:{tiny_folder}", out=tmp_path / "out", size=32, workers=1))
    done = opened(tmp_path / "out", limit)
    if done.returncode == 77:
        pytest.skip("this machine allows too many maps to use them up")
    assert done.returncode == 2, done.stderr
    (sentence,) = done.stderr.splitlines()
    assert reason in sentence
    assert "train-000000" in sentence
    assert advice in sentence
    assert "not the data" in sentence
    assert "remove" not in sentence


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOMEM, "ulimit -v"), (errno.EMFILE, "ulimit -n"), (errno.ENFILE, "fs.file-max"), (errno.EIO, "dmesg")],
)
def test_the_same_wherever_files_are_read(
    tiny_shards: ShardSet, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, number: int, advice: str
) -> None:
    def refuse(*arguments: object, **named: object) -> None:
        raise OSError(number, os.strerror(number))

    def refuse_as_torch(path: str, **named: object) -> None:
        raise RuntimeError(f"unable to mmap 9 bytes from file <{path}>: {os.strerror(number)} ({number})\nC++ stack")

    source = FolderSource(LocalFolder(tiny_folder))
    folder = LocalFolder(Path(tiny_shards.location))
    ways: list[Callable[[], object]] = [lambda: tiny_shards.split("val").open_all()]
    with monkeypatch.context() as patch:
        patch.setattr(torch, "from_file", refuse_as_torch)
        refused(ways, advice)
    ways = [lambda: tiny_shards.split("val").open_all()]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuse)
        refused(ways, advice)
    with monkeypatch.context() as patch:
        patch.setattr(mmap, "mmap", refuse)
        patch.setattr(LocalFolder, "read", refuse)
        patch.setattr(LocalFolder, "files", refuse)
        refused(
            [
                lambda: scan_tar(folder, "val-000000.tar", rules=Rules(size=32), options=IndexOptions()),
                lambda: source.read(0),
                lambda: FolderSource(LocalFolder(tiny_folder)),
                lambda: ShardSet.open(tiny_shards.location),
            ],
            advice,
        )


def refused(ways: list[Callable[[], object]], advice: str) -> None:
    for way in ways:
        with pytest.raises(UserError, match=advice) as caught:
            way()
        assert not isinstance(caught.value, DamagedDataError)
        assert "make it again" not in str(caught.value)


def test_a_writer_is_not_told_to_take_another_folder() -> None:
    with pytest.raises(UserError) as caught, writing("shards", "or give another --out"):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    assert str(caught.value).startswith("shards could not be written (Too many open files); this machine's limit is")


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (MemoryError(), "this machine's memory"),
        (RuntimeError("[enforce] DefaultCPUAllocator: can't allocate memory: you tried ...\nstack"), "smaller batch"),
        (RuntimeError("can't start new thread"), "ulimit -u"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (3)"), None),
        (OSError(errno.ENOENT, "no file"), None),
        (OSError("without a number"), None),
        (ValueError("unable to mmap 1 bytes from file <x>: (12)"), None),
    ],
)
def test_what_is_the_machine_and_what_is_not(
    error: Exception, advice: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    from food101_fast.cli import exit_with

    found = machine_advice(error)
    assert (found is None) == (advice is None)

    def command(arguments: object) -> None:
        raise error

    with pytest.raises(type(error) if advice is None else SystemExit):
        exit_with(command, [])
    assert capsys.readouterr().err.count("\n") == (advice is not None)
    assert advice is None or advice in str(found)


def test_a_missing_or_changed_file_is_still_damage(tiny_path: Path, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(tiny_path, tmp_path / "copy")
    split = ShardSet.open(copy).split("val")
    (copy / "val-000000.index.npy").unlink()
    with pytest.raises(DamagedDataError, match="make it again"):
        split.open_all()
