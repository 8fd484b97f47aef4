"""`python -m food101_fast.report`: a run as an HTML page, or several runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from food101_fast.cli import exit_with, parse
from food101_fast.errors import UserError
from food101_fast.report.page import write_comparison, write_report
from food101_fast.runs.folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """Write report.html into a run's folder again, or put several runs side by side on a page of their own. Train and
    evaluate write the first by themselves."""

    run: Path | None = None
    """Folder of the run to report."""
    compare: tuple[Path, ...] = ()
    """Folders of two runs or more, to be put side by side instead."""
    out: Path | None = None
    """With --compare, the file to write; by default comparison.html in the first run's folder."""
    split: Literal["train", "val", "test"] = "test"
    """Whose evaluation is shown."""
    shards: str | None = None
    """With --run, the folder of shards or its URL, if it is no longer where the run was trained from; for pictures."""

    def __post_init__(self) -> None:
        if (self.run is None) == (not self.compare):
            raise UserError("report needs one of --run, and --compare with the folders of two runs or more")
        if self.compare and self.shards is not None:
            raise UserError("--shards goes with --run; a comparison shows no pictures")
        if self.run is not None and self.out is not None:
            raise UserError("--out goes with --compare; the report of a run is in its folder")


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    settings = parse(ReportSettings, "report", argv)
    if settings.run is not None:
        print(write_report(settings.run, split=settings.split, shards=settings.shards))
    else:
        out = settings.out or RunFolder(settings.compare[0]).comparison
        print(write_comparison(settings.compare, out, split=settings.split))


if __name__ == "__main__":
    exit_with(main)
