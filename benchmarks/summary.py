"""What gpu.sh measured, merged into one JSON file, as a short table.

python benchmarks/summary.py --rows FILE [--json FILE]        merge the rows, however far the script came
python benchmarks/summary.py --json FILE                      show a merged file
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from rows import merge, read_rows

from food101_fast.cli import exit_with, parse
from food101_fast.errors import UserError
from food101_fast.storage import write_atomically


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The results of gpu.sh: merge and show them."""

    rows: Path | None = None
    """File of rows, one a line; without it the merged file is shown."""
    json: Path | None = None
    """The merged file."""


def merged(settings: Settings) -> dict[str, Any]:
    """All parts, from the rows (the merged file is then written) or from the merged file.

    Raises:
        UserError: there is no such file, or no row in it.
    """
    source = settings.rows or settings.json
    if source is None:
        raise UserError("give --rows FILE, --json FILE, or both")
    if not source.is_file():
        raise UserError(f"there is no file {source}; run benchmarks/gpu.sh first")
    if settings.rows is None:
        document: dict[str, Any] = orjson.loads(source.read_bytes())
        return document
    document = merge(read_rows(source))
    if not document["parts"]:
        raise UserError(f"{source} has no rows; run benchmarks/gpu.sh first")
    if settings.json is not None:
        options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
        write_atomically(settings.json, orjson.dumps(document, option=options))
    return document


def value(row: dict[str, Any]) -> str:
    """A row's figure in words."""
    if "reason" in row:
        return str(row["reason"])
    if "repetitions" not in row:
        return f"{row['value']:,.4g} {row['unit']}"
    rates = row["repetitions"]
    over = ", ".join(f"{ratio:.2f} x {name}" for name, ratio in row.get("over", {}).items())
    figures = f"{statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f}) {row['unit']}"
    return figures + (f"; {over}" if over else "")


def tests(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """How many tests ended how, and which failed."""
    outcomes = [row["outcome"] for row in rows]
    yield "tests", ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in sorted(set(outcomes)))
    for row in rows:
        if row["outcome"] == "failed":
            yield row["name"], (row.get("message", "").splitlines() or [""])[-1]


def table(document: dict[str, Any]) -> str:
    """Every part with its state, and every row in a line."""
    lines = []
    for name, part in document["parts"].items():
        seconds = f", {part['seconds']} s" if "seconds" in part else ""
        lines.append(f"== {name}: {part['state']}{seconds}")
        rows = part["rows"]
        pairs = tests(rows) if name == "tests" else ((row["name"], value(row)) for row in rows)
        lines += [f"{title:<62} {words}" for title, words in pairs]
    return "\n".join(lines)


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    print(table(merged(parse(Settings, "benchmarks/summary", argv))))


if __name__ == "__main__":
    exit_with(main)
