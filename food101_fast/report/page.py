"""Writing a page: data of `run_page` or `comparison` into its template, and that into one HTML file.

To change what is drawn, change the dataclasses in `run_page` or `comparison`, and the `.jinja` template next to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from food101_fast.errors import UserError
from food101_fast.fonts import short
from food101_fast.report.comparison import ComparisonPage, comparison_page
from food101_fast.report.findings import main_split, read_findings
from food101_fast.report.run_page import RunPage, run_page
from food101_fast.runs.folder import RunFolder
from food101_fast.storage import write_atomically, writing


def write_report(
    folder: Path, *, split: str | None = None, shards: str | None = None, overlays: Sequence[str] = ()
) -> Path:
    """Write `report.html` into a run's folder; for a split other than the default the file is `{split}_report.html`.

    The file needs no network. It shows a summary, curves, throughput and class counts. If the split was evaluated since
    the run was trained, it also shows the confusion matrix, classes, mistakes with their pictures, calibration, and
    averages with other runs. Pictures need the shards; without them the page says so.

    Args:
        folder: of the run.
        split: the split to show; default: test, or val if the run's shards have no test.
        shards: folder or URL of the shards, if they moved since the run was trained.
        overlays: of the shards, if they moved since.

    Returns:
        The file.

    Raises:
        UserError: the folder has no run with a finished epoch; `shards` can't be opened or is another data set; or the
            page can't be written.
    """
    usual = main_split([folder])
    shown = split or usual
    page = run_page(read_findings(folder, shown, shards, overlays))
    return _write(RunFolder(folder).report(shown, usual), _render("report.html.jinja", page))


def write_comparison(folders: Sequence[Path], out: Path, *, split: str | None = None) -> Path:
    """Write a page that compares runs: metrics, curves, recipes and classes.

    Runs that were evaluated on the same samples are compared with the first one by McNemar's exact test.

    Args:
        folders: of the runs, two or more, each once.
        out: file to write.
        split: the split to show; default: test, or val if the shards of a run have no test.

    Returns:
        The file.

    Raises:
        UserError: there are fewer than two runs, one has no finished epoch, or the page can't be written.
    """
    if len(folders) < 2 or len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError("--compare needs the folders of two runs or more, each once")
    shown = split or main_split(folders)
    page = comparison_page([read_findings(folder, shown) for folder in folders])
    return _write(out, _render("comparison.html.jinja", page))


def _write(path: Path, page: str) -> Path:
    with writing(path):
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, page.encode())
    return path


def _words(name: str) -> str:
    """A name as it is shown: a long one is cut, and shown whole where the pointer is."""
    words = name.replace("_", " ")
    shown = short(words)
    return words if shown == words else Markup('<span title="{}">{}</span>').format(words, shown)


def _render(template: str, page: RunPage | ComparisonPage) -> str:
    environment = Environment(
        loader=PackageLoader("food101_fast.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["words"] = _words
    environment.filters["fields"] = lambda settings: asdict(settings).items()
    environment.filters["setting"] = _setting
    here = Path(__file__).parent
    inlined = {name: Markup((here / name).read_text()) for name in ("style.css", "script.js")}
    return environment.get_template(template).render(
        style=inlined["style.css"], script=inlined["script.js"], **vars(page)
    )


def _setting(value: object) -> str:
    """A field of a recipe as text: what is not set is a dash, several values are a list."""
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value)) or "-"
    return "-" if value is None else str(value)
