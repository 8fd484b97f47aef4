"""What a tracker does, and what it is told when it starts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import orjson

from food101_fast.documents import parse
from food101_fast.runs.folder import RunFolder
from food101_fast.runs.run import Run
from food101_fast.storage import write_atomically

Fact = str | int | float | bool | None
Ended = Literal["finished", "stopped", "failed"]
"""How a training process ends: the run is complete, a signal stopped it, or an error."""

Id = TypeVar("Id")


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """A run when a training process starts."""

    folder: Path
    """Of the run."""
    facts: Mapping[str, Fact]
    """The recipe, and what it is trained on, with flat names; see `facts_of`."""
    step: int
    """Steps that are finished already."""
    resumed: bool
    """Whether the run was started earlier; a tracker then continues its own run."""
    seconds: float
    """How long the tracker may take to finish its work when the training has ended."""

    @property
    def name(self) -> str:
        """Name of the folder, which becomes the name of the run."""
        return self.folder.resolve().name


class Tracker(Protocol):
    """One of the programs that keep what a run measures. All methods are called in one thread, in order.

    Any method may raise: the tracker is then left alone, and the training goes on.
    """

    @property
    def address(self) -> str | None:
        """Where a user finds the run, for one line on the terminal; None says nothing."""

    def metrics(self, step: int, numbers: Mapping[str, float]) -> None:
        """Log numbers by their names, after so many finished steps. The text before a slash is a group."""

    def totals(self, step: int, numbers: Mapping[str, float]) -> None:
        """Log what the whole run reached, once, after its last step."""

    def report(self, page: Path, pictures: Sequence[Path]) -> None:
        """Log the run's HTML page and its PNG files."""

    def artifact(self, name: str, folder: Path) -> None:
        """Store a folder of files, such as a checkpoint."""

    def close(self, ended: Ended) -> None:
        """Send what is pending and end."""


def facts_of(run: Run) -> dict[str, Fact]:
    """A run as flat names and plain values: fields of the recipe by their own names, others with a group before a dot.

    Args:
        run: with the recipe that is trained.
    """
    facts = {name: _plain(value) for name, value in asdict(run.recipe).items()}
    facts |= {
        "data.shards": run.shards,
        "data.digest": run.data,
        "data.source": run.source,
        "data.protocol": run.protocol,
        "data.classes": len(run.classes),
        "data.stored_size": run.stored_size,
    }
    facts |= {f"data.{split}_images": sum(counts) for split, counts in run.class_counts.items()}
    facts |= {f"machine.{name}": _plain(value) for name, value in asdict(run.machine).items()}
    return facts | {f"versions.{name}": version for name, version in run.versions.items()}


def _plain(value: Any) -> Fact:
    return value if value is None or isinstance(value, str | int | float) else json.dumps(value, default=str)


def read_id(run: TrackedRun, tracker: str, kind: type[Id]) -> Id | None:
    """The tracker's own name of the run that is continued; None if there is none.

    Args:
        run: that is tracked.
        tracker: its name.
        kind: a dataclass.

    Raises:
        UserError: the file is damaged.
    """
    path = RunFolder(run.folder).tracked(tracker)
    if not run.resumed or not path.exists():
        return None
    return parse(path.read_bytes(), kind, where=str(path), advice="remove it to track the run as a new one")


def write_id(run: TrackedRun, tracker: str, own: object) -> None:
    """Keep the tracker's own name of a run in its folder, for a later start with --resume.

    Args:
        run: that is tracked.
        tracker: its name.
        own: a dataclass.
    """
    path = RunFolder(run.folder).tracked(tracker)
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, orjson.dumps(own, option=orjson.OPT_INDENT_2))
