"""All of Food-101 with the official split, at 64 px enlarged to 96: pretrained networks, trained to their end.

    python benchmarks/full_food101.py --names HUB --weights DIR --work DIR [--json FILE]

HUB is a folder with a copy of the hub's `ethz/food101`, of images of at least 64 px. Its validation split is the
official test set; val is cut from train. The epoch that is best on val is measured on test, with the classes and pairs
of classes that are hardest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt
from official import Outcome, Trial, all_tried, line, summed_up
from published import Measurement

from food101_fast.cli import exit_with, parse
from food101_fast.compute.device import Device
from food101_fast.limits import check_limits
from food101_fast.prepare import PrepareSettings, prepare
from food101_fast.runs.evaluation import read_evaluation
from food101_fast.runs.recipe import Amp
from food101_fast.shards import ShardSet
from food101_fast.train import Recipe

_NETWORKS = (
    "mobilenet_v2=mobilenet_v2_imagenet.safetensors",
    "timm/tf_efficientnet_lite0=tf_efficientnet_lite0.safetensors",
)
_HARDEST = 10


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All of Food-101 at 64 px, with pretrained networks."""

    names: Path
    """Folder with the parquet files of the hub's `ethz/food101`, at 64 px or more."""
    weights: Path
    """Folder of the weights' files."""
    work: Path
    """Folder for shards and runs. A finished run in it is used again."""
    networks: tuple[str, ...] = _NETWORKS
    """MODEL=FILE for each; the file is in --weights."""
    size: Annotated[int, Ge(32)] = 64
    """Height and width of the stored images, in pixels."""
    image_size: Annotated[int, Ge(32)] = 96
    """Height and width that the model sees, in pixels."""
    epochs: Annotated[int, Ge(1)] = 3
    """Epochs of each run."""
    batch_size: Annotated[int, Ge(2)] = 128
    """Images in one step."""
    learning_rate: Annotated[float, Gt(0)] = 1e-3
    """Highest one, of AdamW."""
    amp: Amp = "off"
    """Mixed precision."""
    limit: int | None = None
    """Use only so many images."""
    jobs: Annotated[int, Ge(1)] = 1
    """Runs at the same time. With more than 1, their seconds can't be compared."""
    device: Device = "cpu"
    """Where to compute."""
    json: Path | None = None
    """File to write the results to."""

    def __post_init__(self) -> None:
        check_limits(self)


def hardest(run: Path) -> dict[str, Any]:
    """The classes with the lowest recall on test, and the pairs of classes that are confused most often."""
    metrics = read_evaluation(run, "test")
    assert metrics is not None, "it was evaluated"
    recalls = {name: scores.recall for name, scores in metrics.per_class.items() if scores.recall is not None}
    ordered = sorted(recalls.items(), key=lambda item: item[1])
    return {
        "top1_interval": metrics.top1_interval,
        "macro_f1": metrics.macro_f1,
        "worst": dict(ordered[:_HARDEST]),
        "best": dict(ordered[-_HARDEST:]),
        "confused": [asdict(pair) for pair in metrics.confused[:_HARDEST]],
    }


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    settings = parse(Settings, "benchmarks/full_food101", argv)
    folder = settings.work / f"full-{settings.size}"
    prepare(
        PrepareSettings(
            source=f"hub:{settings.names}", splits="source", size=settings.size, limit=settings.limit, out=folder
        )
    )
    manifest = ShardSet.open(folder).manifest
    measurement = Measurement(settings.json, settings.device, settings=vars(settings))
    recipe = Recipe(
        image_size=settings.image_size, epochs=settings.epochs, batch_size=settings.batch_size, optimizer="adamw",
        learning_rate=settings.learning_rate, schedule="cosine", warmup_epochs=0.25, weight_decay=0.01,
        patience=None, amp=settings.amp,
    )  # fmt: skip
    trials = []
    for number, network in enumerate(settings.networks):
        model, _, file = network.partition("=")
        own = replace(recipe, model=model, weights=str(settings.weights / file))
        run = settings.work / "runs" / f"full-{number}"
        trials.append(Trial(name=model, shards=folder, folder=run, recipe=own, device=settings.device))

    def say(trial: Trial, outcome: Outcome) -> None:
        print(line(trial.name, outcome), flush=True)

    outcomes = all_tried(trials, settings.jobs, say)
    measurement.publish(
        {name: value for name, value in vars(settings).items() if not isinstance(value, Path)},
        recipe=asdict(recipe),
        samples={name: entry.samples for name, entry in manifest.splits.items()},
        rejects=manifest.rejects,
        networks={trial.name: summed_up(outcomes[trial.name]) | hardest(trial.folder) for trial in trials},
    )


if __name__ == "__main__":
    exit_with(main)
