"""Probes of several backbones: `train --recipe probe --model A B C`, each in a folder of its own, in one table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from food101_fast.compute.device import Device
from food101_fast.errors import UserError
from food101_fast.loader import LoaderOptions
from food101_fast.progress import Output, shown
from food101_fast.runs.checkpoint import has_checkpoint
from food101_fast.runs.probe import ProbeResult, read_probe
from food101_fast.runs.recipe import Recipe
from food101_fast.runs.run import check_new
from food101_fast.shards import ShardSet
from food101_fast.train.job import train

_HEAD = ("model", "features", "images/s", "seconds", "val top-1", "weight decay", "kNN top-1")


def each_model(argv: Sequence[str]) -> list[list[str]]:
    """The arguments of `train` for each model that `--model` names; those of one model are returned as they are.

    The run of a model is a folder in that of `--run`, with the model's name. `--weights` may have a value for each
    model. Without `--resume`, since some of the runs may not have begun.

    Args:
        argv: of the command.

    Raises:
        UserError: `--weights` has several values, and not as many as `--model`.
    """
    models, weights, run = (_values(argv, flag) for flag in ("--model", "--weights", "--run"))
    if len(models) < 2:
        return [list(argv)]
    if len(weights) not in (0, 1, len(models)):
        raise UserError(
            f"--weights has {len(weights)} values and --model has {len(models)}; give one for all, or one for each"
        )
    rest = _without(argv, ("--model", "--weights", "--run", "--resume"))
    made = []
    for index, (model, folder) in enumerate(zip(models, _folders(models), strict=True)):
        flags = ["--model", model]
        flags += ["--weights", weights[index % len(weights)]] if weights else []
        flags += ["--run", str(Path(run[0]) / folder)] if run else []
        made.append([*rest, *flags])
    return made


def _values(argv: Sequence[str], flag: str) -> list[str]:
    """The values after a flag, the last time that it is given."""
    values: list[str] = []
    taking = False
    for argument in argv:
        if argument.startswith("-"):
            name, _, value = argument.partition("=")
            taking = argument == flag
            if name == flag:
                values = [value] if value else []
        elif taking:
            values.append(argument)
    return values


def _without(argv: Sequence[str], flags: Sequence[str]) -> list[str]:
    """The arguments without some flags and their values."""
    rest: list[str] = []
    leaving = False
    for argument in argv:
        if argument.startswith("-"):
            leaving = argument.partition("=")[0] in flags
        if not leaving:
            rest.append(argument)
    return rest


def _folders(models: Sequence[str]) -> list[str]:
    """A folder's name for each model; a second one of the same name gets a number."""
    names: list[str] = []
    for model in models:
        name = re.sub(r"[^\w.-]+", "-", model).strip(".-") or "model"
        same = sum(other == name or re.fullmatch(f"{re.escape(name)}-\\d+", other) is not None for other in names)
        names.append(f"{name}-{same + 1}" if same else name)
    return names


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Several probes on the same shards."""

    shards: str
    """Folder or URL of the shards."""
    overlay: tuple[str, ...] = ()
    """Overlays of the shards."""
    runs: tuple[tuple[Path, Recipe], ...]
    """Folder and recipe of each probe."""
    resume: bool
    """Whether probes that are finished are kept, and not refused."""
    device: Device
    loading: LoaderOptions
    output: Output

    def __post_init__(self) -> None:
        for _, recipe in self.runs:
            if recipe.method != "probe":
                names = " ".join(recipe.model for _, recipe in self.runs)
                raise UserError(
                    f"--model {names}: only --recipe probe takes several models, and compares them; give one of them"
                )


def compare(comparison: Comparison) -> None:
    """Probe each backbone and print a table, the best first; or a line of JSON with the same.

    Raises:
        UserError: a folder, a model or the shards can't be used. Folders are checked before the first probe.
        KeyboardInterrupt: a signal asked to stop; finished probes are kept, for the same command with --resume.
    """
    from food101_fast.report import write_report  # here, since it takes a second to import

    kept = [comparison.resume and has_checkpoint(folder, "last") for folder, _ in comparison.runs]
    for (folder, _), is_kept in zip(comparison.runs, kept, strict=True):
        if not is_kept:
            check_new(folder)
    shards = ShardSet.open(comparison.shards, overlay=comparison.overlay)
    found: list[tuple[Path, ProbeResult]] = []
    with shown(comparison.output):
        for (folder, recipe), is_kept in zip(comparison.runs, kept, strict=True):
            train(shards, folder, recipe, device=comparison.device, resume=is_kept, loading=comparison.loading)
            write_report(folder)
            found.append((folder, read_probe(folder)))
    found.sort(key=lambda pair: -pair[1].best.val_top1)
    if comparison.output.json:
        rows = [{"run": str(folder), **_derived(result), **asdict(result)} for folder, result in found]
        print(orjson.dumps({"run": str(found[0][0].parent), "models": rows}).decode())
        return
    print(table({folder.name: result for folder, result in found}))
    if not comparison.output.quiet:
        images = found[0][1].features[1].samples
        print(f"top-1 on the {images:,} images of val; each backbone is a run in {found[0][0].parent}/NAME")
        print(f"next: python -m food101_fast.evaluate --run {found[0][0]}")


def _derived(result: ProbeResult) -> dict[str, float]:
    """What the table shows and the result only implies."""
    return {
        "feature_size": result.feature_size,
        "images_per_second": result.images_per_second,
        "val_top1": result.best.val_top1,
        "weight_decay": result.best.weight_decay,
    }


def table(results: Mapping[str, ProbeResult]) -> str:
    """Results by their names as a table for the terminal."""
    rows = [
        (
            name,
            f"{result.feature_size:,}",
            f"{result.images_per_second:,.0f}",
            f"{result.seconds:,.1f}",
            f"{result.best.val_top1:.4f}",
            f"{result.best.weight_decay:g}",
            f"{result.knn_top1:.4f}",
        )
        for name, result in results.items()
    ]
    widths = [max(map(len, column)) for column in zip(_HEAD, *rows, strict=True)]
    lines = []
    for row in (_HEAD, *rows):
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join([row[0].ljust(len(first)), *others]))
    return "\n".join(lines)
