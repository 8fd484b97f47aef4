"""MLflow: a run in an experiment, on the server or in the store that MLFLOW_TRACKING_URI names."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from food101_fast.train.trackers.tracker import Ended, Fact, TrackedRun, read_id, write_id

_NAME = "mlflow"
_EXPERIMENT = "food101-fast"
_LONGEST = 500  # characters of a parameter; older servers take no more
_MOST = 100  # parameters in one request
_STATUS: dict[Ended, str] = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


@dataclass(frozen=True, kw_only=True)
class MlflowRun:
    """How MLflow knows a run."""

    run_id: str
    experiment_id: str
    tracking_uri: str | None
    """Of the store that has the run, in which it is continued. None if it has a password, which is not kept: then the
    environment says it again."""


def be_silent() -> None:
    """Keep MLflow from printing how it makes the tables of its database."""
    for name in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)


class MLflow:
    """A run of MLflow, through its client: the program's own active run is left alone.

    MLflow keeps every value of a step. So a resumed run logs a metric again only after the newest step that MLflow has.

    Args:
        run: that is tracked.
    """

    def __init__(self, run: TrackedRun) -> None:
        from mlflow import MlflowClient

        stored = read_id(run, _NAME, MlflowRun)
        self._client = MlflowClient(None if stored is None else stored.tracking_uri)
        own = stored or self._new_run(run)
        self._id, self._experiment = own.run_id, own.experiment_id
        write_id(run, _NAME, own)
        self._newest: dict[str, int] = {}
        self._is_resumed = stored is not None
        if self._is_resumed:
            self._client.update_run(self._id, status="RUNNING")
        self._log_facts(run.facts)

    def _new_run(self, run: TrackedRun) -> MlflowRun:
        experiment = os.environ.get("MLFLOW_EXPERIMENT_ID") or self._experiment_of(
            os.environ.get("MLFLOW_EXPERIMENT_NAME") or _EXPERIMENT
        )
        tags = {"mlflow.source.name": "food101_fast.train", "mlflow.source.type": "LOCAL"}
        made = self._client.create_run(experiment, run_name=run.name, tags=tags)
        uri = self._client.tracking_uri
        return MlflowRun(
            run_id=made.info.run_id, experiment_id=experiment, tracking_uri=None if _has_password(uri) else uri
        )

    def _experiment_of(self, name: str) -> str:
        known = self._client.get_experiment_by_name(name)
        return self._client.create_experiment(name) if known is None else known.experiment_id

    def _log_facts(self, facts: Mapping[str, Fact]) -> None:
        """Parameters of the run. MLflow forbids to change one, so one that has changed since becomes a tag."""
        from mlflow.entities import Param

        logged = self._client.get_run(self._id).data.params if self._is_resumed else {}
        texts = {name: _short(str(value)) for name, value in facts.items()}
        new = [Param(name, text) for name, text in texts.items() if name not in logged]
        for first in range(0, len(new), _MOST):
            self._client.log_batch(self._id, params=new[first : first + _MOST])
        for name, text in texts.items():
            if logged.get(name, text) != text:
                self._client.set_tag(self._id, name, text)

    @property
    def address(self) -> str:
        """The run's page on a server; else its id and the store."""
        uri = self._client.tracking_uri
        if _has_password(uri):
            uri = uri.replace(urlsplit(uri).netloc, urlsplit(uri).netloc.rpartition("@")[2])
        if uri.startswith("http"):
            return f"{uri.rstrip('/')}/#/experiments/{self._experiment}/runs/{self._id}"
        return f"run {self._id} in {uri}"

    def metrics(self, step: int, numbers: Mapping[str, float]) -> None:
        """A point of each metric, in one request."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        new = [Metric(name, value, now, step) for name, value in numbers.items() if step > self._newest_of(name)]
        if new:
            self._client.log_batch(self._id, metrics=new)

    totals = metrics

    def _newest_of(self, name: str) -> int:
        """The newest step of a metric that was logged before the run was resumed; -1 if there is none."""
        if not self._is_resumed:
            return -1
        if name not in self._newest:
            steps = [point.step for point in self._client.get_metric_history(self._id, name)]
            self._newest[name] = max(steps, default=-1)
        return self._newest[name]

    def report(self, page: Path, pictures: Sequence[Path]) -> None:
        """Files of the run, in the folder `report`."""
        for path in (page, *pictures):
            self._client.log_artifact(self._id, str(path), "report")

    def artifact(self, name: str, folder: Path) -> None:
        """Files of the run, in a folder of `checkpoints`."""
        self._client.log_artifacts(self._id, str(folder), f"checkpoints/{name}")

    def close(self, ended: Ended) -> None:
        """Set the run's status and the time of its end."""
        self._client.set_terminated(self._id, _STATUS[ended])


def _has_password(uri: str) -> bool:
    return "@" in urlsplit(uri).netloc


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
