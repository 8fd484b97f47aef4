"""What the pages say was measured is what the measurements said."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest

from food101_fast.errors import UserError

ROOT = Path(__file__).parents[1]
README, BENCHMARKS = ROOT / "README.md", ROOT / "docs" / "benchmarks.md"
PAGES = [path for path in (README, *(ROOT / "docs").glob("*.md")) if "<!-- from results: " in path.read_text()]

# Numbers that the benchmark page says of its own: settings, sizes of the data, limits. None was measured.
CHOSEN = "0.3 1 2 10 16 32 64 80 90 101 128 160 192 255 256 512 768 800 1,000 1,024 6,000 9,600 12,000"
HEADLINES = ("headline", "gpu-headline")


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("tables")


def numbers(text: str) -> set[str]:
    """Numbers in what a reader takes for prose: not in figures from results, code, or addresses."""
    for inserted in (r"<!-- from results: .*?<!-- end -->", r"```.*?```", r"`[^`]*`", r"\]\([^)]*\)", r"https?://\S+"):
        text = re.sub(inserted, " ", text, flags=re.DOTALL)
    return set(re.findall(r"(?<![\w.])\d+(?:[.,]\d+)*", text))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_figures_are_those_of_the_results(tables: ModuleType, path: Path) -> None:
    text = path.read_text()
    assert tables.filled(text, path) == text, "run python benchmarks/tables.py"


def test_no_figure_of_the_benchmark_page_was_written_by_hand() -> None:
    assert numbers(BENCHMARKS.read_text()) - set(CHOSEN.split()) == set(), "put figures into benchmarks/*_blocks.py"


def rows_beside(text: str, name: str) -> list[str]:
    """Rows of a table that touch the figures from results, and were written by hand."""
    before, _, rest = text.partition(f"<!-- from results: {name} -->")
    after = rest.partition("<!-- end -->")[2]
    beside = (before.rstrip().rpartition("\n")[2], after.lstrip().partition("\n")[0])
    return [line for line in beside if line.startswith("|")]


def test_the_headline_table_has_no_row_beside_those_of_the_results() -> None:
    text = README.read_text()
    present = [name for name in HEADLINES if f"<!-- from results: {name} -->" in text]
    assert present
    assert [rows_beside(text, name) for name in present] == [[]] * len(present)


def test_a_row_written_by_hand_is_found() -> None:
    text = "x\n<!-- from results: headline -->\n| a | 1 |\n<!-- end -->\n| b | 2 |\n"
    assert rows_beside(text, "headline") == ["| b | 2 |"]
    assert rows_beside(text.replace("| b | 2 |", "Python 3.12"), "headline") == []


@pytest.mark.parametrize("sentence", ["It needs Python 3.12 or 3.13.", "Install torch 2.99 and 17 others."])
def test_prose_of_the_front_page_may_say_any_number(tables: ModuleType, sentence: str) -> None:
    text = f"{README.read_text()}\n{sentence}\n"
    assert tables.filled(text, README) == text


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
