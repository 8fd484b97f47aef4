"""Images per second of our transforms, of torchvision, kornia and torchaug, from 192 px, crops to 160 px, in one run.

    python benchmarks/transforms.py [--device cpu|cuda] [--batch-size 64] [--json FILE]

kornia and torchaug are installed in an environment of their own, with this one's torch; where that can't be done they
are measured if they are there, and else left out. The medians over the
repetitions are printed; all are kept in the JSON.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import peers
import torch

from food101_fast.cli import exit_with, parse
from food101_fast.errors import UserError
from food101_fast.shards.folder import write_atomically
from food101_fast.train.device import machine

SCRIPT = peers.HERE / "augment.py"
LIBRARIES = ("ours", "ours, compiled", "torchvision, loop", "torchvision, one draw", "kornia", "torchaug")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Images per second of transforms."""

    device: str = "cpu"
    """Where to compute."""
    batch_size: int = 64
    """Images per batch."""
    repetitions: int = 5
    """Repetitions, after one that is not counted."""
    seconds: float = 0.3
    """Length of one, at the least; a batch is not broken off."""
    envs: Path = peers.HERE / ".envs"
    """Folder for the environment; kept for the next run."""
    json: Path | None = None
    """File to write the results to."""


def against_loop(of: dict[str, list[float]]) -> float:
    """How much faster than torchvision's loop: the median of the repetitions, each of which measured both in a row."""
    return statistics.median(a / b for a, b in zip(of["ours"], of["torchvision, loop"], strict=True))


def table(rates: dict[str, dict[str, list[float]]]) -> str:
    """Medians, and how ours compares with torchvision's loop."""
    libraries = [library for library in LIBRARIES if any(library in of for of in rates.values())]
    lines = [f"{'':<26}" + "".join(f"{library:>23}" for library in libraries) + f"{'ours / loop':>13}"]
    for name, of in rates.items():
        medians = {library: statistics.median(values) for library, values in of.items()}
        cells = (f"{medians[library]:,.0f}" if library in medians else "-" for library in libraries)
        ratio = f"{against_loop(of):.2f}" if "torchvision, loop" in of else ""
        lines.append(f"{name:<26}" + "".join(f"{cell:>23}" for cell in cells) + f"{ratio:>13}")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    settings = parse(Settings, "benchmarks/transforms", argv)
    try:
        python = peers.environment(SCRIPT, settings.envs)
    except subprocess.CalledProcessError as error:
        print(f"kornia and torchaug can't be installed: {error.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        python = Path(sys.executable)
    options = {name: getattr(settings, name) for name in ("device", "batch_size", "repetitions", "seconds")}
    command = [python, SCRIPT, *(f"--{name.replace('_', '-')}={value}" for name, value in options.items())]
    output = subprocess.run(command, capture_output=True, text=True, env=peers.variables(), check=False)
    if output.returncode:
        raise UserError(f"{SCRIPT} failed: {output.stderr.strip().splitlines()[-1]}")
    result: dict[str, Any] = json.loads(output.stdout.splitlines()[-1])
    print(table(result["images_per_second"]))
    if settings.json is not None:
        document = {"version": 1, "machine": machine(torch.device(settings.device)), "settings": options, **result}
        write_atomically(settings.json, orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


if __name__ == "__main__":
    exit_with(main)
