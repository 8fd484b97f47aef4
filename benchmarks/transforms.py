"""Images per second of our transforms, of torchvision, kornia, torchaug and DALI, from 192 px to 160 px, in one run.

    python benchmarks/transforms.py [--device cpu|cuda] [--batch-size 64] [--threads 1 2] [--json FILE]

kornia, torchaug and DALI are installed in an environment of their own, with this one's torch; where that can't be done
they are measured if they are there, and else left out. The medians over the repetitions are printed; all are kept in
the JSON.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from environments import ENVIRONMENTS, HERE, environment, reported
from published import Measurement

from food101_fast.bench.measure import median_of_ratios
from food101_fast.cli import exit_with, parse
from food101_fast.errors import UserError

SCRIPT = HERE / "augment.py"
LIBRARIES = ("ours", "ours, compiled", "torchvision, loop", "torchvision, one draw", "kornia", "torchaug", "DALI")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Images per second of transforms."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Where to compute."""
    batch_size: int = 64
    """Images per batch."""
    repetitions: int = 5
    """Repetitions, after one that is not counted."""
    seconds: float = 0.3
    """Shortest duration of one, in seconds; a batch is always finished."""
    threads: tuple[int, ...] = ()
    """Numbers of threads on the CPU to measure with, in turns; by default torch's own."""
    names: tuple[str, ...] = ()
    """Transforms to measure; by default all."""
    envs: Path | None = ENVIRONMENTS
    """Folder for the environment; kept for the next run. None: what is installed beside this project."""
    json: Path | None = None
    """File to write the results to."""


def table(rates: dict[str, dict[str, list[float]]]) -> str:
    """Medians, and how ours compares with torchvision's loop."""
    libraries = [library for library in LIBRARIES if any(library in of for of in rates.values())]
    lines = [f"{'':<26}" + "".join(f"{library:>23}" for library in libraries) + f"{'ours / loop':>13}"]
    for name, of in rates.items():
        medians = {library: statistics.median(values) for library, values in of.items()}
        cells = (f"{medians[library]:,.0f}" if library in medians else "-" for library in libraries)
        ratio = f"{median_of_ratios(of['ours'], of['torchvision, loop']):.2f}" if "torchvision, loop" in of else ""
        lines.append(f"{name:<26}" + "".join(f"{cell:>23}" for cell in cells) + f"{ratio:>13}")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    settings = parse(Settings, "benchmarks/transforms", argv)
    measurement = Measurement(settings.json, settings.device)
    try:
        python = environment(SCRIPT, settings.envs)
    except UserError as error:
        print(f"kornia, torchaug or DALI {error}", file=sys.stderr)
        python = Path(sys.executable)
    options = {name: getattr(settings, name) for name in ("device", "batch_size", "repetitions", "seconds")}
    chosen = {"threads": ",".join(map(str, settings.threads)), "names": ",".join(settings.names)}
    result = reported(SCRIPT, python, {**options, **chosen})
    for count, rates in result["by_threads"].items():
        print(f"{count} threads\n{table(rates)}")
    options |= chosen
    measurement.publish(options, **result)


if __name__ == "__main__":
    exit_with(main)
