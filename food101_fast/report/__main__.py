"""`python -m food101_fast.report`: a run as an HTML page, or a comparison of several runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from food101_fast.cli import exit_with, parse
from food101_fast.errors import UserError
from food101_fast.progress import warn
from food101_fast.report.findings import main_split, missing_evaluation
from food101_fast.report.page import write_comparison, write_report
from food101_fast.runs.folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """Write a run's report.html, or a page that compares several runs.

    Train and evaluate write report.html without this command.
    """

    run: Path | None = None
    """Folder of the run to report."""
    compare: tuple[Path, ...] = ()
    """Folders of two or more runs to compare, instead of --run."""
    out: Path | None = None
    """With --compare, the file to write; by default comparison.html in the first run's folder."""
    split: Literal["train", "val", "test"] | None = None
    """Split whose evaluation is shown. By default test, or val if the shards of a run have no test."""
    shards: str | None = None
    """With --run, folder or URL of the shards, if they moved since the run was trained; for pictures."""

    overlay: tuple[str, ...] = ()
    """With --run, overlays that it was trained with, if they moved since."""

    def __post_init__(self) -> None:
        if (self.run is None) == (not self.compare):
            raise UserError("report needs one of --run, and --compare with the folders of two runs or more")
        if self.compare and (self.shards is not None or self.overlay):
            raise UserError("--shards and --overlay need --run; a comparison has no pictures")
        if self.run is not None and self.out is not None:
            raise UserError("--out needs --compare; the report of a run is in its folder")


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    settings = parse(ReportSettings, "report", argv)
    if settings.run is not None:
        page = write_report(settings.run, split=settings.split, shards=settings.shards, overlays=settings.overlay)
    else:
        out = settings.out or RunFolder(settings.compare[0]).comparison
        page = write_comparison(settings.compare, out, split=settings.split)
    runs = settings.compare if settings.run is None else [settings.run]
    for run in runs:
        missing = missing_evaluation(run, settings.split or main_split(runs))
        if missing is not None:
            warn(missing)
    print(page)


if __name__ == "__main__":
    exit_with(main)
