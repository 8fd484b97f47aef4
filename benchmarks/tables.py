"""Write the tables of README.md and benchmarks/README.md from benchmarks/results, so that no figure is written by hand.

    python benchmarks/tables.py [--check]

A table stands between `<!-- from results: NAME -->` and `<!-- end -->`; what stands there is replaced.
"""

from __future__ import annotations

import re
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from food101_fast.bench.ceilings import share_text
from food101_fast.bench.measure import median_of_ratios
from food101_fast.cli import exit_with, parse
from food101_fast.errors import UserError
from food101_fast.shards.folder import write_atomically

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
FILES = (ROOT / "README.md", ROOT / "benchmarks" / "README.md")

_BLOCK = re.compile(r"(<!-- from results: ([\w-]+) -->\n)(.*?)(\n<!-- end -->)", re.DOTALL)

Rows = Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Write the tables of README.md and benchmarks/README.md from benchmarks/results."""

    check: bool = False
    """Only say whether they are what the results say; exit code 1 if not."""


def result(name: str) -> dict[str, Any]:
    """What a measurement left in benchmarks/results."""
    document: dict[str, Any] = orjson.loads((RESULTS / f"{name}.json").read_bytes())
    return document


def table(head: Sequence[str], rows: Rows) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def whole(value: float) -> str:
    """A rate in words: 1,234."""
    return f"{value:,.0f}"


def _spread(rates: Sequence[float]) -> list[str]:
    return [whole(statistics.median(rates)), f"{whole(min(rates))} to {whole(max(rates))}"]


def peers(encoding: str) -> str:
    """Every loader on one encoding, the fastest first; what can't read it comes last."""
    reports = result("peers-cpu")[encoding].values()
    measured = sorted(
        (report for report in reports if "error" not in report),
        key=lambda report: -statistics.median(report["images_per_second"]),
    )
    rows = []
    if encoding == "raw":
        ceiling = result("peers-cpu")["memcpy_images_per_second"]
        rows.append(
            ["rows copied one by one (memcpy), 1 thread: the ceiling of one core", *_spread(ceiling), "1.0", ""]
        )
    for report in measured:
        ours = report["name"].startswith("food101_fast")
        name = f"**{report['name']}**" if ours else f"{report['name']} {report.get('version', '')}".strip()
        cores = f"{statistics.median(report['busy_cores']):.1f}"
        rows.append([name, *_spread(report["images_per_second"]), cores, report["how"]])
    rows += [[report["name"], "", "", "", report["error"]] for report in reports if "error" in report]
    return table(["loader", "images/s", "lowest to highest", "busy cores", "how"], rows)


def loader() -> str:
    """Our loader's settings."""
    rows = [
        [name, *_spread(one["images_per_second"]), f"{statistics.median(one['busy_cores']):.2f}"]
        for name, one in result("loader-cpu")["results"].items()
    ]
    return table(["setting", "images/s", "lowest to highest", "busy cores"], rows)


def transforms() -> str:
    """Each transform and preset against others; the ratio is that of paired repetitions."""
    others = ("torchvision, one draw", "kornia", "torchaug")
    rows = []
    for name, rates in result("transforms-cpu")["images_per_second"].items():
        if "torchvision, loop" not in rates:
            continue
        loop = rates["torchvision, loop"]
        cells = [whole(statistics.median(rates[other])) if other in rates else "" for other in others]
        ratio = f"{median_of_ratios(rates['ours'], loop):.2f}"
        rows.append([name, whole(statistics.median(rates["ours"])), whole(statistics.median(loop)), ratio, *cells])
    head = ["transform", "ours", "torchvision in a loop", "ours / loop", "torchvision, one draw for the batch"]
    return table([*head, "kornia", "torchaug"], rows)


def stages() -> str:
    """Each stage of a training step, and its share of what the machine can do."""
    rows = [
        [name, *_spread(stage["repetitions"]), share_text(stage)]
        for name, stage in result("stages-cpu")["stages"].items()
    ]
    return table(["stage", "images/s", "lowest to highest", "of the machine's own"], rows)


def stage_sums() -> str:
    """How the stages fit together."""
    found = result("stages-cpu")
    whole_over_fixed = 1 / found["free"]["loading"]
    return (
        f"Transforms, forward + backward and optimiser add up to {found['parts_over_fixed_batch']:.2f} of the step on "
        f"a fixed batch. The step from shards is {whole_over_fixed:.2f} times as fast as the one on a fixed batch "
        f"(median of {len(found['stages']['loader']['repetitions'])} pairs). Verdict: {found['verdict']['sentence']}."
    )


TABLES: dict[str, Callable[[], str]] = {
    "peers-raw": lambda: peers("raw"),
    "peers-jpeg": lambda: peers("jpeg"),
    "loader": loader,
    "transforms": transforms,
    "stages": stages,
    "stage-sums": stage_sums,
    "verdict": lambda: f"```text\n{result('stages-cpu')['verdict']['sentence']}\n```",
}


def filled(text: str, path: Path) -> str:
    """A file's text with its tables made anew.

    Raises:
        UserError: a block has a name that there is no table for.
    """

    def block(found: re.Match[str]) -> str:
        if found[2] not in TABLES:
            raise UserError(f"{path} asks for the table {found[2]!r}; there are {', '.join(TABLES)}")
        return f"{found[1]}{TABLES[found[2]]()}{found[4]}"

    return _BLOCK.sub(block, text)


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    settings = parse(Settings, "benchmarks/tables", argv)
    stale = []
    for path in FILES:
        text = path.read_text()
        new = filled(text, path)
        if new != text:
            stale.append(path)
            if not settings.check:
                write_atomically(path, new.encode())
    for path in stale:
        print(f"{path.relative_to(ROOT)} {'differs from the results' if settings.check else 'is written anew'}")
    if settings.check and stale:
        sys.exit(1)


if __name__ == "__main__":
    exit_with(main)
