"""The command `train --replay`: what it takes, and what it writes and prints."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Annotated

import orjson
from annotated_types import Ge

from food101_fast.cli import parse
from food101_fast.compute.device import Device, choose_device
from food101_fast.errors import UserError
from food101_fast.limits import check_limits
from food101_fast.progress import Output, shown, warn
from food101_fast.runs.folder import RunFolder
from food101_fast.runs.run import is_trained_now
from food101_fast.storage import write_atomically, writing
from food101_fast.terminal import show
from food101_fast.train.replay.job import replay
from food101_fast.train.replay.results import summary
from food101_fast.train.replay.sheet import draw_pages, unnormalized
from food101_fast.transforms.normalize import ToNormalized


@dataclass(frozen=True, kw_only=True)
class ReplaySettings:
    """Compute a step of a run again; show its batch, its augmentation, its loss and its gradients."""

    run: Path
    """Folder of the run."""
    replay: Annotated[int, Ge(0)]
    """Number of the step, from 0: so many steps were finished before it. The first step of epoch 2 has the number of
    steps in an epoch."""
    shards: str | None = None
    """Folder of the run's shards, if they moved since it was trained: a path or a URL."""
    device: Device = "auto"
    """Device to compute on. auto is CUDA if there is a GPU, else the CPU."""
    output: Output = field(default_factory=Output)
    """What the command prints."""

    def __post_init__(self) -> None:
        check_limits(self)


def asks_for_replay(argv: Sequence[str]) -> bool:
    """Whether the arguments of `train` are those of a replay, which needs neither shards nor a recipe."""
    return any(argument.partition("=")[0] == "--replay" for argument in argv)


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`.

    Raises:
        UserError: see `replay`; or the results can't be written, or there are several ranks.
    """
    settings = parse(ReplaySettings, "train", argv)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("--replay computes in one process; call it without torchrun")
    if is_trained_now(settings.run):
        warn(f"{settings.run} is being trained; its checkpoints may be newer in a moment")
    with shown(settings.output):
        found, batch, images, step = replay(
            settings.run, settings.replay, device=choose_device(settings.device), shards=settings.shards
        )
    normalize = next(module for module in step.preset.modules() if isinstance(module, ToNormalized))
    seen = unnormalized(images, normalize._mean, normalize._std)
    pages = draw_pages(batch.images.cpu(), seen, found.measured.samples, found.measured.nonfinite.samples)
    folder = RunFolder(settings.run).replay(settings.replay)
    document = orjson.dumps(found, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY)
    with writing(folder):
        folder.mkdir(exist_ok=True)
        write_atomically(folder / "replay.json", document)
        for number, page in enumerate(pages, 1):
            stream = BytesIO()
            page.save(stream, "PNG")
            write_atomically(folder / f"batch-{number:02d}.png", stream.getvalue())
    if settings.output.json:
        print(document.decode())
        return
    more = f" to batch-{len(pages):02d}.png" if len(pages) > 1 else ""
    for line in [*summary(found), f"{folder}: replay.json, and the batch in batch-01.png{more}"]:
        show(line)
