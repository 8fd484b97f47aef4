"""Weights & Biases: a run in a project, on its server, or in the run's folder with WANDB_MODE=offline."""

from __future__ import annotations

import netrc
import os
import re
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from food101_fast.train.trackers.tracker import Ended, TrackedRun, read_id, write_id

_NAME = "wandb"
_PROJECT = "food101-fast"


@dataclass(frozen=True, kw_only=True)
class WandbRun:
    """How Weights & Biases knows a run."""

    id: str
    project: str


def be_silent() -> None:
    """Keep wandb from printing, unless it has to ask, or the user or the program has decided that already."""
    if _NAME not in sys.modules and not _asks():
        os.environ.setdefault("WANDB_SILENT", "true")


def _asks() -> bool:
    """Whether wandb would ask for a key: on a terminal, where none is known."""
    if not sys.stdin.isatty() or os.environ.get("WANDB_MODE", "online") != "online" or "WANDB_API_KEY" in os.environ:
        return False
    try:
        hosts = netrc.netrc().hosts
    except (OSError, netrc.NetrcParseError):
        return True
    return not any("wandb" in host for host in hosts)


def log_in() -> None:
    """Ask for the key of the account now, on a terminal, if none is known. In the thread it would stop the bars.

    Raises:
        Exception: wandb raises errors of its own.
    """
    import wandb

    if wandb.setup().settings.mode in ("online", "run") and sys.stdin.isatty():
        wandb.login(verify=False)


class WeightsAndBiases:
    """A run of wandb. wandb's own files go into the run's folder; the user's environment chooses server and project.

    wandb drops what is logged for a step before the newest one that it has: a resumed run logs no step twice.

    Args:
        run: that is tracked.
    """

    def __init__(self, run: TrackedRun) -> None:
        import wandb

        settings: dict[str, Any] = {"silent": True, "console": "off"}
        if "finish_timeout" in wandb.Settings.model_fields:  # of newer versions; it also ends wandb's work at exit
            settings["finish_timeout"] = run.seconds
        project = os.environ.get("WANDB_PROJECT") or _PROJECT
        own = read_id(run, _NAME, WandbRun) or WandbRun(id=secrets.token_hex(4), project=project)
        self._media = (wandb.Html, wandb.Image, wandb.Artifact)
        self._run = wandb.init(
            id=own.id,
            project=own.project,
            name=os.environ.get("WANDB_NAME") or run.name,
            dir=run.folder,
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(**settings),
        )
        write_id(run, _NAME, own)
        self._name = run.name
        self._run.config.update(dict(run.facts), allow_val_change=True)  # type: ignore[no-untyped-call]
        # Said by wandb for each row otherwise, whatever its settings say.
        self._first = self._run.step if self._run.resumed else 0
        self._last = self._first

    @property
    def address(self) -> str | None:
        """URL of the run; offline the command that uploads it."""
        if self._run.offline:
            return f"offline; upload it with: wandb sync {Path(self._run.dir).parent}"
        return self._run.url

    def metrics(self, step: int, numbers: Mapping[str, float]) -> None:
        """A row of the run's history."""
        if step >= self._first:
            self._last = step
            self._run.log(dict(numbers), step=step)

    def totals(self, step: int, numbers: Mapping[str, float]) -> None:
        """The run's summary."""
        self._run.summary.update(dict(numbers))

    def report(self, page: Path, pictures: Sequence[Path]) -> None:
        """The page and the pictures as panels of the workspace."""
        html, image, _ = self._media
        media: dict[str, Any] = {f"report/{path.stem}": image(str(path)) for path in pictures}
        self._run.log(media | {"report/page": html(page.read_text(), inject=False)}, step=self._last)

    def artifact(self, name: str, folder: Path) -> None:
        """A model with this name as an alias; its versions are those of the run."""
        artifact = self._media[2](re.sub(r"[^\w.-]", "-", f"{self._name}-{self._run.id}", flags=re.ASCII), type="model")
        artifact.add_dir(str(folder))
        self._run.log_artifact(artifact, aliases=[name, "latest"])

    def close(self, ended: Ended) -> None:
        """Upload the rest; after an error the run is marked as failed."""
        self._run.finish(exit_code=1 if ended == "failed" else 0)
