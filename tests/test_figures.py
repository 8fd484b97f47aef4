"""What the READMEs say was measured is what the measurements said."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest

from food101_fast.errors import UserError

ROOT = Path(__file__).parents[1]
README, BENCHMARKS, SCALING = (ROOT / name for name in ("README.md", "benchmarks/README.md", "benchmarks/SCALING.md"))

# Numbers that the text says of its own: settings, sizes of the data, limits, versions, names. None was measured.
CHOSEN = {
    README: (
        "0 1 2 3 3.11 4 4.4 5 6 8 10 16 18 20 25 32 40 50 55 64 80 89 90 95 96 100 101 128 160 192 200 224 255 400 "
        "1,000 2020 2929 3206 8191 8484 25,000 101,000"
    ),
    BENCHMARKS: ("0.3 1 2 10 16 32 64 80 90 101 128 160 192 255 256 512 768 800 1,000 1,024 6,000 9,600 12,000"),
}


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("tables")


def numbers(text: str) -> set[str]:
    """Numbers in what a reader takes for prose: not in figures from results, code, or addresses."""
    for inserted in (r"<!-- from results: .*?<!-- end -->", r"```.*?```", r"`[^`]*`", r"\]\([^)]*\)", r"https?://\S+"):
        text = re.sub(inserted, " ", text, flags=re.DOTALL)
    return set(re.findall(r"(?<![\w.])\d+(?:[.,]\d+)*", text))


@pytest.mark.parametrize("path", [README, BENCHMARKS, SCALING], ids=lambda path: path.name)
def test_figures_are_those_of_the_results(tables: ModuleType, path: Path) -> None:
    text = path.read_text()
    assert "<!-- from results: " in text
    assert tables.filled(text, path) == text, "run python benchmarks/tables.py"


@pytest.mark.parametrize("path", [README, BENCHMARKS], ids=lambda path: path.name)
def test_no_figure_was_written_by_hand(path: Path) -> None:
    assert numbers(path.read_text()) - set(CHOSEN[path].split()) == set(), "put figures into benchmarks/blocks.py"


def test_a_figure_written_by_hand_is_found() -> None:
    text = (
        "does 12,345.6 images/s; <!-- from results: x -->7<!-- end -->, `--batch-size 8` and [it](a/9.md), MobileNetV2"
    )
    assert numbers(text) == {"12,345.6"}


def test_a_figure_that_was_changed_is_found(tables: ModuleType) -> None:
    block = BENCHMARKS.read_text().partition("<!-- from results: peers-raw -->")[2]
    digit = next(place for place, letter in enumerate(block) if letter.isdigit())
    changed = BENCHMARKS.read_text().replace(
        block, block[:digit] + str((int(block[digit]) + 1) % 10) + block[digit + 1 :]
    )
    assert tables.filled(changed, BENCHMARKS) != changed
    assert tables.filled(changed, BENCHMARKS) == BENCHMARKS.read_text()


def test_an_unknown_table_is_named(tables: ModuleType) -> None:
    with pytest.raises(UserError, match="asks for the table 'nothing'"):
        tables.filled("<!-- from results: nothing -->\nx\n<!-- end -->", README)


def test_plots_were_drawn_from_the_results(tables: ModuleType) -> None:
    from plots import PLOTS, drawn_from

    assert {name: drawn_from(name) for name in PLOTS} == {name: plot.digest() for name, plot in PLOTS.items()}


def test_a_plot_of_other_results_is_found(tables: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import plots

    monkeypatch.setattr(plots, "DOCS", tmp_path)
    assert plots.drawn_from("threads") is None
    plots.draw("threads")
    assert plots.drawn_from("threads") == plots.PLOTS["threads"].digest()
    (tmp_path / "results").mkdir()
    for name in plots.PLOTS["threads"].results:
        (tmp_path / "results" / f"{name}.json").write_bytes(b"[]")
    monkeypatch.setattr(plots, "RESULTS", tmp_path / "results")
    assert plots.drawn_from("threads") != plots.PLOTS["threads"].digest()
