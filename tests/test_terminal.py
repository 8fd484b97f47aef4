"""Lines fit the terminal, and files keep them whole."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from food101_fast.terminal import wrapped


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


WORDS = st.lists(st.text("ab-/.", min_size=1, max_size=30), max_size=30)


@given(st.lists(WORDS, max_size=4))
def test_a_terminal_gets_lines_that_fit(lines: list[list[str]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "40")
        text = "\n".join("  " + " ".join(line) for line in lines)
        shown = wrapped(text, Terminal())
    assert max(map(len, shown.split("\n"))) <= 40
    assert shown.split() == text.split()
    assert wrapped(text, io.StringIO()) == text


def test_a_path_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    path = "/a-very-long/" * 6
    assert path in wrapped(f"error: the folder {path} is not empty; give another --run", Terminal()).split()


def test_lines_that_fit_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    table = "stage        images/s\nloader          1,000\n"
    assert wrapped(table, Terminal()) == table
