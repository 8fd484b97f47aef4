"""`python -m food101_fast.bench`: measure the stages and print a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from food101_fast.bench.stages import BenchSettings, run_bench
from food101_fast.cli import exit_with, parse
from food101_fast.errors import UserError
from food101_fast.shards.folder import write_atomically


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    settings = parse(BenchSettings, "bench", argv)
    if settings.json is not None and not settings.json.absolute().parent.is_dir():
        raise UserError(f"there is no folder {settings.json.absolute().parent} for --json; make it first")
    result = run_bench(settings)
    print(format_table(result))
    if settings.json is not None:
        write_atomically(settings.json, orjson.dumps(result, option=orjson.OPT_INDENT_2))
        print(settings.json)


def format_table(result: dict[str, Any]) -> str:
    """The stages as a table for the terminal: median and range in images per second."""
    machine, settings = result["machine"], result["settings"]
    lines = [
        f"{machine['device']}, {machine['cores']} cores, torch {result['versions']['torch']}; {settings['model']}, "
        f"{result['stored_size']} -> {settings['image_size']} px, batch {settings['batch_size']}",
        f"{'stage':<28}{'images/s':>12}{'lowest':>12}{'highest':>12}",
    ]
    for name, stage in result["stages"].items():
        rates = stage["repetitions"]
        lines.append(f"{name:<28}{stage['images_per_second']:>12,.1f}{min(rates):>12,.1f}{max(rates):>12,.1f}")
    loader, counted = result["loader"], result["loader"]["counters"]
    lines += [
        f"loader: residence {loader['residence']}, {loader['residence_reason']}",
        f"in all stages together it gave {counted['images']:,} images in {counted['batches']:,} batches, "
        f"{counted['bytes'] / 1e9:.2f} GB; it was waited for {counted['consumer_wait_seconds']:.2f} s, and waited "
        f"{counted['producer_wait_seconds']:.2f} s itself",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    exit_with(main)
