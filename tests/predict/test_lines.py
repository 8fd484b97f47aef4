"""Predictions fit a terminal, and are one line for each image elsewhere."""

from __future__ import annotations

import sys

import pytest

from food101_fast.predict.__main__ import _as_lines

TOP = [("spaghetti_bolognese", 0.5), ("ramen", 0.25), ("pho", 0.1)]


def test_as_many_classes_in_a_line_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    assert _as_lines("a.jpg", TOP, 8, 19) == (
        "a.jpg     spaghetti_bolognese 0.500  ramen               0.250  pho                 0.100"
    )
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert _as_lines("a.jpg", TOP, 8, 19).split("\n") == [
        "a.jpg     spaghetti_bolognese 0.500  ramen               0.250",
        "          pho                 0.100",
    ]
    monkeypatch.setenv("COLUMNS", "20")
    assert len(_as_lines("a.jpg", TOP, 8, 19).split("\n")) == 3
