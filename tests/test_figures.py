"""The tables of the READMEs say what the measurements said."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from food101_fast.errors import UserError

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tables"] = module  # where dataclasses look for its names
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["README.md", "benchmarks/README.md"])
def test_no_figure_of_a_table_was_written_by_hand(tables: ModuleType, name: str) -> None:
    path = ROOT / name
    text = path.read_text()
    assert "<!-- from results: " in text
    assert tables.filled(text, path) == text, "run python benchmarks/tables.py"


def test_a_figure_that_was_changed_is_found(tables: ModuleType) -> None:
    path = ROOT / "benchmarks" / "README.md"
    block = path.read_text().partition("<!-- from results: peers-raw -->")[2]
    digit = next(place for place, letter in enumerate(block) if letter.isdigit())
    changed = path.read_text().replace(block, block[:digit] + str((int(block[digit]) + 1) % 10) + block[digit + 1 :])
    assert tables.filled(changed, path) != changed
    assert tables.filled(changed, path) == path.read_text()


def test_an_unknown_table_is_named(tables: ModuleType) -> None:
    with pytest.raises(UserError, match="asks for the table 'nothing'"):
        tables.filled("<!-- from results: nothing -->\nx\n<!-- end -->", ROOT / "README.md")
