"""The command line of each command: groups in the help, paragraphs without odd wraps, and names that are corrected."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

import pytest
import tyro

from food101_fast import cli
from food101_fast.bench.__main__ import GROUPS_OF_FLAGS, DoctorSettings
from food101_fast.errors import UserError
from food101_fast.flags import _SYNONYMS, flags_of, parse_flags
from food101_fast.train.__main__ import GROUPS, TrainSettings

Command = Callable[..., tuple[int, str, str]]


@dataclass(frozen=True, kw_only=True)
class Inner:
    """Settings within others."""

    depth: int = 3
    """A number that
    ends on a second line."""
    sharp: bool = True
    """A switch that is on."""


@dataclass(frozen=True, kw_only=True)
class Outer:
    """First paragraph.

    Second
    paragraph.
    """

    files: tyro.conf.Positional[tuple[str, ...]]
    """Some files."""
    out: str
    """A folder."""
    rate: Annotated[float, "any annotation"] = 0.5
    """A rate (see --depth)."""
    inner: Inner = field(default_factory=Inner)
    """Not shown."""


GROUPED = {"more": ("depth", "rate")}


def parsed(*arguments: str, default: Outer | None = None) -> Outer:
    return parse_flags(Outer, "program", arguments, default=default, groups=GROUPED)


def test_settings_are_nested_however_their_flags_are_grouped() -> None:
    assert parsed("a", "b", "--out", "o", "--depth", "4", "--no-sharp") == Outer(
        files=("a", "b"), out="o", rate=0.5, inner=Inner(depth=4, sharp=False)
    )


def test_a_default_gives_the_values_of_nested_flags() -> None:
    default = Outer(files=tyro.MISSING, out=tyro.MISSING, rate=0.25, inner=Inner(depth=9))
    assert parsed("--out", "o", default=default) == Outer(files=(), out="o", rate=0.25, inner=Inner(depth=9))


def test_the_help_has_groups_and_paragraphs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed("--help")
    out = capsys.readouterr().out
    order = ["options", "--out STR", "--no-sharp", "more options", "--depth INT", "--rate FLOAT"]
    lines = [next(n for n, line in enumerate(out.splitlines()) if re.match(rf"\W*{text}", line)) for text in order]
    assert lines == sorted(lines)
    assert "A number that ends on a second line. (default: 3)" in out
    assert "  First paragraph.\n  Second paragraph.\n" in out
    assert "Some files. (required)" in out
    assert "A switch that is on. (on by default)" in out


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ("--dept 3", "unknown flag --dept; did you mean --depth?"),
        ("--dept=3", "unknown flag --dept; did you mean --depth?"),
        ("--output x", "unknown flag --output; did you mean --out?"),
        ("-o x", "unknown flag -o; did you mean --out?"),
        ("--sharp", "unknown flag --sharp; did you mean --no-sharp?"),
        ("--lr 3", "unknown flag --lr; `program --help` lists all flags"),
        ("--inner.depth 3", "unknown flag --inner.depth; `program --help` lists all flags"),
    ],
)
def test_an_unknown_flag_is_one_sentence(arguments: str, answer: str) -> None:
    with pytest.raises(UserError) as error:
        parsed("--out", "o", *shlex.split(arguments))
    assert str(error.value) == answer


def test_values_are_not_taken_for_flags() -> None:
    assert parsed("a", "--out=o", "--rate", "-1").rate == -1
    assert parsed("-", "--out", "o").files == ("-",)
    assert parsed("--out", "o", "--", "--lr").files == ("--lr",)


@pytest.mark.parametrize(
    ("name", "typed", "meant"),
    [
        ("train", "--lr", "--learning-rate"),
        ("train", "--bs", "--batch-size"),
        ("train", "-b", "--batch-size"),
        ("train", "--wd", "--weight-decay"),
        ("train", "--arch", "--model"),
        ("train", "--data", "--shards"),
        ("train", "--output", "--run"),
        ("train", "--workers", "--threads"),
        ("train", "-j", "--threads"),
        ("train", "--batchsize", "--batch-size"),
        ("train", "--tf32", "--no-tf32"),
        ("prepare", "--data", "--source"),
        ("prepare", "--output", "--out"),
        ("prepare", "-j", "--workers"),
        ("prepare", "--image-size", "--size"),
        ("predict", "-k", "--top-k"),
        ("bench", "--workers", "--threads"),
    ],
)
def test_the_names_of_other_programs_are_known(name: str, typed: str, meant: str, command: Command) -> None:
    assert command(name, typed, "3") == (2, "", f"error: unknown flag {typed}; did you mean {meant}?\n")


def test_no_synonym_is_out_of_date(command: Command) -> None:
    helps = "".join(command(name, "--help")[1] for name in cli.COMMANDS)
    for typed, meant in _SYNONYMS.items():
        assert all(f"{flag} " in helps for flag in meant), typed


@pytest.mark.parametrize(("kind", "groups"), [(TrainSettings, GROUPS), (DoctorSettings, GROUPS_OF_FLAGS)])
def test_the_commonest_flags_come_first(kind: type, groups: dict[str, tuple[str, ...]]) -> None:
    names = [flag.name for flag in flags_of(kind)]
    grouped = [name for group in groups.values() for name in group]
    assert len(set(grouped)) == len(grouped)
    assert set(grouped) < set(names)
    assert len(names) - len(grouped) <= 10, "say in which group the new flag is"


@pytest.mark.parametrize("arguments", [*cli.COMMANDS, "bench compare", "bench train"])
def test_the_help_fits_a_terminal(arguments: str, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = command(*arguments.split(), "--help")
    assert code == 0
    lines = [line for line in out.splitlines() if not line.startswith("usage: ")]
    assert max(map(len, lines)) <= 80
    assert not re.search(r"\n\s*\n\s*\n", out)
