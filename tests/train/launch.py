"""Runs of `train` in processes of their own: as one or several ranks, killed where a test wants it.

A forkserver that has imported everything makes a process start in a moment.
"""

from __future__ import annotations

import dataclasses
import functools
import multiprocessing
import os
import resource
import signal
import socket
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import orjson
import torch
from torch import nn

from food101_fast.compute.device import Device
from food101_fast.loader import Batch
from food101_fast.shards import ShardSet
from food101_fast.train import Hooks, Recipe, RunOptions, train
from food101_fast.train.step import TrainStep

context = multiprocessing.get_context("forkserver")


@functools.cache
def _preload() -> None:
    """Once, before the first job: a process has one forkserver, and `prepare` started it without these imports."""
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
    context.set_forkserver_preload(["tests.train.launch"])
    forkserver.ensure_running()


@dataclass(kw_only=True)
class Job:
    """What a process does."""

    shards: Path
    run: Path
    recipe: Recipe
    device: Device = "cpu"
    resume: bool = False
    options: RunOptions = field(default_factory=RunOptions)
    kill_before_step: int | None = None
    """The process kills itself before it does so many steps."""
    send: tuple[int, int] | None = None
    """A signal that the process gets while it does the step of that number."""
    full_disk_from_step: int | None = None
    """From this step on no file can grow beyond some bytes, as if the disk were full."""
    plain: bool = False
    """Train a model without BatchNorm and dropout, whose result does not depend on how a batch is divided."""
    notes: Path | None = None
    """File to which each rank adds a line for every step: its number, ids and the gradient's first digits."""


def plain_model(*_: object) -> nn.Module:
    """What `plain` asks for."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.GELU(), nn.Conv2d(8, 16, 3, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 3),
    )  # fmt: skip


def start(job: Job, ranks: int = 1) -> list[int]:
    """Run a job on so many ranks; returns their exit codes (negative: the signal that killed them)."""
    _preload()
    port = free_port()
    processes = [context.Process(target=_rank, args=(job, rank, ranks, port)) for rank in range(ranks)]
    for process in processes:
        process.start()
    return _ended(processes)


def forked(function: Callable[..., object], *arguments: Any) -> int:
    """Call a module's function in a process of its own; returns its exit code."""
    _preload()
    process = context.Process(target=function, args=arguments)
    process.start()
    return _ended([process])[0]


def _ended(processes: Sequence[BaseProcess]) -> list[int]:
    """Wait for all; as torchrun does, the others are killed when one was."""
    for process in processes:
        process.join()
        if process.exitcode:
            for other in processes:
                other.kill()
    return [process.exitcode or 0 for process in processes]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return int(listener.getsockname()[1])


def _rank(job: Job, rank: int, ranks: int, port: int) -> None:
    torch.set_num_threads(1)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])  # a forkserver starts with it blocked
    if ranks > 1:
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_PORT": port}
        os.environ |= {name: str(value) for name, value in names.items()} | {"MASTER_ADDR": "localhost"}
    hooks = Hooks(before_step=Watch(job, rank))
    if job.plain:
        hooks = dataclasses.replace(hooks, build_model=plain_model)
    try:
        shards = ShardSet.open(job.shards)
        train(shards, job.run, job.recipe, device=job.device, resume=job.resume, options=job.options, hooks=hooks)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


class Watch:
    """Does before each step what a job says, and notes the gradients after it."""

    def __init__(self, job: Job, rank: int) -> None:
        self._job = job
        self._rank = rank
        self._line: dict[str, object] = {}
        self._noting = False

    def __call__(self, step: TrainStep, number: int, batch: Batch) -> None:
        job = self._job
        if number == job.kill_before_step:
            os.kill(os.getpid(), signal.SIGKILL)
        if number == job.full_disk_from_step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        if job.send is not None and job.send[1] == number:
            os.kill(os.getpid(), job.send[0])
        if job.notes is not None and not self._noting:
            notes = job.notes
            step.optimizer.register_step_pre_hook(lambda *_: self._note(step, notes))
            self._noting = True
        self._line = {"step": number, "rank": self._rank, "ids": batch.ids.tolist()}

    def _note(self, step: TrainStep, notes: Path) -> None:
        gradients = torch.cat([p.grad.flatten() for p in step.model.parameters() if p.grad is not None])
        line = self._line | {"gradients": gradients[:500].tolist()}
        with notes.open("ab") as file:
            file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
