"""Ranks, forks and spawned processes: the same order, nothing counted twice, no deadlock."""

from __future__ import annotations

import gc
import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.context import ForkContext, ForkServerContext, SpawnContext
from pathlib import Path

import numpy as np
import pytest
import torch

from food101_fast.loader import ShardLoader
from food101_fast.loader.residence import Residence
from food101_fast.shards import ShardSet

Context = ForkContext | SpawnContext | ForkServerContext
CONTEXTS: list[Context] = [get_context("fork"), get_context("spawn"), get_context("forkserver")]
RANKS = Path(__file__).parent / "ranks.py"


@pytest.mark.parametrize("world", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_real_ranks_together_count_every_sample_once(tiny_path: Path, world: int) -> None:
    """With torchrun and gloo; shards of 9 samples, the last ones shorter, and splits that no world size divides."""
    process = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"),
            *(str(RANKS), str(tiny_path)),
        ],
        capture_output=True,
        text=True,
        timeout=180,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert process.returncode == 0, process.stderr
    splits = {name: len(ShardSet.open(tiny_path).split(name)) for name in ("train", "val", "test")}
    lines = process.stdout.splitlines()
    assert f"evaluated {splits}" in lines
    trained = splits["train"] // (2 * world) * 2 * world
    assert f"trained on {trained} of {splits['train']}, in the order of one process" in lines


def ids_in(loader: ShardLoader, send: Callable[[list[int]], None]) -> None:
    send([sample for batch in loader for sample in batch.ids.tolist()])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("context", CONTEXTS, ids=["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("residence", ["stream", "host"])
def test_a_loader_works_in_another_process(tiny_shards: ShardSet, context: Context, residence: Residence) -> None:
    """Also in the middle of an iteration of the parent, which continues undisturbed."""
    loader = ShardLoader(tiny_shards, split="train", batch_size=4, residence=residence)
    expected = [batch.ids.tolist() for batch in loader]
    loader.set_epoch(0)
    batches = iter(loader)
    seen = [next(batches).ids.tolist() for _ in range(3)]
    own = ShardLoader(tiny_shards, split="train", batch_size=4, residence=residence)
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=ids_in, args=(own, send.send))
    child.start()
    assert receive.poll(60)
    assert receive.recv() == [sample for step in expected for sample in step]
    child.join()
    assert child.exitcode == 0
    assert seen + [batch.ids.tolist() for batch in batches] == expected


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_an_iteration_started_before_a_fork_is_refused_after_it(tiny_shards: ShardSet) -> None:
    batches = iter(ShardLoader(tiny_shards, split="train", batch_size=4))
    next(batches)
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            next(batches)
        except RuntimeError as error:
            os.write(send, str(error).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(send)
    with open(receive) as pipe:
        assert pipe.read().startswith("this iteration was started in another process")
    assert len(next(batches).ids) == 4


def test_a_pickled_loader_goes_on_where_it_was(tiny_shards: ShardSet) -> None:
    loader = ShardLoader(tiny_shards, split="train", batch_size=4, seed=3, window=20)
    expected = [batch.ids.tolist() for batch in loader]
    loader.set_epoch(0)
    batches = iter(loader)
    for _ in range(5):
        next(batches)
    copied = pickle.dumps(loader)
    assert len(copied) < 20_000  # the files are opened again, not sent
    batches.close()
    assert [batch.ids.tolist() for batch in pickle.loads(copied)] == expected[5:]
    rows = pickle.loads(pickle.dumps(tiny_shards.split("val")))
    assert np.array_equal(rows[3], tiny_shards.split("val")[3])


@pytest.mark.parametrize("window", [None, 20])
def test_a_state_goes_on_with_another_number_of_ranks(tiny_shards: ShardSet, window: int | None) -> None:
    """After every batch, from 2 ranks to 1 and to 4 and back to 2, and through JSON."""

    def made(world: int, rank: int) -> ShardLoader:
        return ShardLoader(
            tiny_shards, split="train", batch_size=8 // world, rank=rank, world_size=world, window=window
        )

    whole = made(1, 0)
    expected = [batch.ids.tolist() for _ in range(6) for batch in whole]
    steps = len(whole)
    for done in range(steps + 1):
        loaders = [made(2, rank) for rank in range(2)]
        seen: list[list[int]] = []
        go_through(loaders, done, seen)
        for world, count in ((1, 1), (4, 2), (2, None)):
            state = json.loads(json.dumps(loaders[0].state_dict()))
            assert all(loader.state_dict() == state for loader in loaders)
            loaders = [made(world, rank) for rank in range(world)]
            for loader in loaders:
                loader.load_state_dict(state)
            go_through(loaders, count, seen)
        go_through(loaders, None, seen)
        assert seen == expected[: len(seen)]
        assert len(seen) >= max(steps, done + 3)


def go_through(loaders: list[ShardLoader], count: int | None, seen: list[list[int]]) -> None:
    """Take `count` global batches, or what is left of the epoch."""
    iterations = [iter(loader) for loader in loaders]
    while count is None or count:
        batches = [next(iteration, None) for iteration in iterations]
        if batches[0] is None:
            break
        seen.append([sample for batch in batches if batch is not None for sample in batch.ids.tolist()])
        count = None if count is None else count - 1
    for iteration in iterations:
        iteration.close()


def test_interrupts_and_errors_leave_no_thread(tiny_shards: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(threading.enumerate())
    loader = ShardLoader(tiny_shards, split="train", batch_size=4, threads=3)

    def interrupted() -> None:
        for number, _ in enumerate(loader):
            if number == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert set(threading.enumerate()) == before
    gather = loader.split.gather

    def fails_late(ids: np.ndarray, out: torch.Tensor) -> np.ndarray:
        if 7 in ids:
            raise OSError("the disk is gone")
        return gather(ids, out)

    with monkeypatch.context() as patch:
        patch.setattr(loader.split, "gather", fails_late)
        with pytest.raises(OSError, match="the disk is gone"):
            list(loader)
    assert set(threading.enumerate()) == before
    loader.set_epoch(0)
    assert len(list(loader)) == len(loader)


def test_garbage_collection_ends_an_iteration(tiny_shards: ShardSet) -> None:
    before = set(threading.enumerate())
    holder: dict[str, object] = {}
    holder["batches"] = batches = iter(ShardLoader(tiny_shards, split="train", batch_size=2, prefetch=8))
    holder["itself"] = holder  # a cycle, which only the collector finds
    next(batches)
    del batches, holder
    gc.collect()
    assert set(threading.enumerate()) == before
