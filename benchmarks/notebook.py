"""Accuracy of `baseline` and of the notebook's way, from the same ImageNet weights, and what reduced decoding changes.

    python benchmarks/notebook.py --photos DIR --names HUB --weights FILE --work DIR --seeds 5 [--json FILE]

The notebook's way is what people write: a Dataset of JPEG files that Pillow decodes, torchvision's transforms one by
one in the workers of a DataLoader, Adam, ExponentialLR, Resize and CenterCrop to validate. Ours is `train --recipe
baseline` on shards: from JPEGs decoded at a reduced DCT scale (`prepare --decode scaled`, the default) and in full. All
have the official split, the same val, recipe and seeds; each draws its order and augmentation in its own way. The epoch
that is best on val is measured on test.

Each of our runs is also measured on test images that were decoded the other way, by `predict`'s classifier.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import orjson
import torch
from annotated_types import Ge, Gt
from estimates import difference, mean_and_error
from official import MEASURED, Outcome, Photographs, Trial, each, line, summed_up, tried
from PIL import Image
from published import Measurement
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from food101_fast.cli import exit_with, parse
from food101_fast.compute.device import Device, choose_device
from food101_fast.compute.precision import Precision
from food101_fast.errors import UserError
from food101_fast.images import Decode
from food101_fast.models import build_model
from food101_fast.predict import Classifier
from food101_fast.runs.recipe import Amp
from food101_fast.shards import ShardSet
from food101_fast.storage import write_atomically
from food101_fast.train import Recipe
from food101_fast.transforms.normalize import MEAN, STD

PLAIN = "plain loop"
OURS: dict[str, Decode] = {"food101_fast": "scaled", "food101_fast, --decode full": "full"}
"""Ways of ours, and how their JPEGs are decoded."""

_SMALLEST = 0.35  # share of the area of a random crop, as in the preset `baseline`
_SHOWN = 0.875  # of the resized image, in evaluation


@dataclass(frozen=True, kw_only=True)
class Settings(Photographs):
    """Accuracy of `baseline` and of the notebook's way."""

    weights: Path
    """File of MobileNetV2's ImageNet weights."""
    ways: tuple[str, ...] = (PLAIN, *OURS)
    """Which, by their names."""
    size: Annotated[int, Ge(32)] = 192
    """Height and width of the stored images, in pixels."""
    image_size: Annotated[int, Ge(32)] = 160
    """Height and width that the model sees, in pixels."""
    epochs: Annotated[int, Ge(1)] = 7
    """Epochs of each run."""
    batch_size: Annotated[int, Ge(2)] = 32
    """Images in one step."""
    learning_rate: Annotated[float, Gt(0)] = 5e-4
    """Of Adam in the first epoch."""
    seeds: Annotated[int, Ge(1)] = 5
    """Runs of each way, with the seeds 0, 1, ..."""
    jobs: Annotated[int, Ge(1)] = 1
    """Runs at the same time. With more than 1, their seconds can't be compared."""
    workers: Annotated[int, Ge(0)] = 2
    """Worker processes of the plain loop's DataLoader."""
    amp: Amp = "off"
    """Mixed precision, of all ways."""
    device: Device = "cpu"
    """Where to compute."""
    json: Path | None = None
    """File to write the results to."""

    @property
    def recipe(self) -> Recipe:
        """`baseline` with these settings."""
        return Recipe(
            weights=str(self.weights), image_size=self.image_size, epochs=self.epochs, batch_size=self.batch_size,
            learning_rate=self.learning_rate, patience=None, amp=self.amp,
        )  # fmt: skip


class Pictures(Dataset[tuple[Any, int]]):
    """The JPEG files of a split, decoded one at a time."""

    def __init__(self, table: Path, split: str, classes: Sequence[str], transform: Callable[[Any], Any]) -> None:
        with table.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == split]
        self._files = [(row["file"], classes.index(row["label"])) for row in rows]
        self._transform = transform

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        path, label = self._files[number]
        with Image.open(path) as picture:
            return self._transform(picture.convert("RGB")), label


class PlainLoop:
    """The loop that people write.

    Args:
        settings: of the measurement.
        classes: names, in the order of the labels.
        recipe: what ours trains with.
        device: to compute on.
    """

    def __init__(self, settings: Settings, classes: Sequence[str], recipe: Recipe, device: torch.device) -> None:
        torch.manual_seed(recipe.seed)
        size = recipe.image_size
        end = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
        augment = v2.Compose([v2.RandomResizedCrop(size, scale=(_SMALLEST, 1.0)), v2.RandomHorizontalFlip(), *end])
        look = v2.Compose([v2.Resize(round(size / _SHOWN)), v2.CenterCrop(size), *end])
        self.batches = {
            split: DataLoader(
                Pictures(settings.listing, split, classes, augment if split == "train" else look),
                recipe.batch_size,
                shuffle=split == "train",
                drop_last=split == "train",
                num_workers=settings.workers,
                persistent_workers=settings.workers > 0 and split != "test",
            )
            for split in ("train", "val", "test")
        }
        self.model: nn.Module = build_model(recipe.model, recipe.weights, len(classes))
        self.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.Adam(self.model.parameters(), recipe.learning_rate)
        self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, recipe.lr_gamma)
        self.device = device
        self.precision = Precision(recipe.amp, device)

    def _moved(self, split: str) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in self.batches[split]:
            yield images.to(self.device, memory_format=torch.channels_last), labels.to(self.device)

    def train(self) -> int:
        """Train one epoch; returns its images."""
        self.model.train()
        seen = 0
        for images, labels in self._moved("train"):
            with self.precision.autocast():
                loss = functional.cross_entropy(self.model(images), labels)
            self.optimizer.zero_grad()
            self.precision.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            self.precision.step(self.optimizer) if self.precision.scales else self.optimizer.step()
            seen += len(labels)
        self.scheduler.step()
        return seen

    @torch.inference_mode()
    def accuracies(self, split: str) -> tuple[float, float]:
        """Top-1 and top-5 on a split."""
        self.model.eval()
        ranks = []
        with self.precision.autocast():
            for images, labels in self._moved(split):
                logits = self.model(images).float()
                ranks.append((logits > logits.gather(1, labels[:, None])).sum(1))
        rank = torch.cat(ranks)
        return (rank < 1).float().mean().item(), (rank < 5).float().mean().item()


def plain(settings: Settings, classes: Sequence[str], recipe: Recipe, device: torch.device) -> Outcome:
    """The plain loop to its end; or what its file in the work folder says, if the recipe is the same."""
    kept = settings.work / "runs" / f"plain-{recipe.seed}.json"
    if kept.exists():
        document = orjson.loads(kept.read_bytes())
        if document["recipe"] == asdict(recipe):
            return Outcome(**document["outcome"] | {"curve": tuple(document["outcome"]["curve"])})
    loop = PlainLoop(settings, classes, recipe, device)
    curve: list[tuple[float, float]] = []
    images, seconds, best = 0, 0.0, loop.model.state_dict()
    for _ in range(recipe.epochs):
        begun = time.perf_counter()
        images += loop.train()
        seconds += time.perf_counter() - begun
        scores = loop.accuracies("val")
        if not curve or scores[0] > max(top1 for top1, _ in curve):
            best = deepcopy(loop.model.state_dict())
        curve.append(scores)
    loop.model.load_state_dict(best)
    val, test = max(curve, key=lambda scores: scores[0]), loop.accuracies("test")
    outcome = Outcome(
        seed=recipe.seed, val_top1=val[0], val_top5=val[1], test_top1=test[0], test_top5=test[1],
        best_epoch=curve.index(val) + 1, images=images, pixels=images * recipe.image_size**2, seconds=seconds,
        images_per_second=images / seconds, curve=tuple(top1 for top1, _ in curve),
    )  # fmt: skip
    write_atomically(kept, orjson.dumps({"recipe": asdict(recipe), "outcome": asdict(outcome)}))
    return outcome


def tested(run: Path, table: Path, decode: Decode) -> float:
    """Top-1 of a run on the photographs of test, decoded in this way, whatever the run's shards were."""
    classifier = Classifier.load(run, device="cpu")
    classifier.rules = replace(classifier.rules, decode=decode)
    with table.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    hits = 0
    for start in range(0, len(rows), 256):
        of_batch = rows[start : start + 256]
        found = classifier([Path(row["file"]) for row in of_batch]).argmax(1).tolist()
        hits += sum(classifier.classes[label] == row["label"] for label, row in zip(found, of_batch, strict=True))
    return hits / len(rows)


def run_folder(settings: Settings, way: str, seed: int) -> Path:
    """Folder of a run of ours."""
    return settings.work / "runs" / f"baseline{'' if OURS[way] == 'scaled' else '-full'}-{seed}"


def measured(settings: Settings, task: tuple[str, int]) -> Outcome:
    """One run of one way; the task is the way and the seed."""
    way, seed = task
    recipe = replace(settings.recipe, seed=seed)
    if way == PLAIN:
        classes = ShardSet.open(settings.work / f"shards-{settings.size}-scaled").classes
        return plain(settings, classes, recipe, choose_device(settings.device))
    shards = settings.work / f"shards-{settings.size}-{OURS[way]}"
    folder = run_folder(settings, way, seed)
    return tried(Trial(name=way, shards=shards, folder=folder, recipe=recipe, device=settings.device))


def cells(settings: Settings) -> list[dict[str, Any]]:
    """Test top-1 of our runs by how the JPEGs of train and of test were decoded."""
    found = []
    for way in OURS:
        for decode in OURS.values():
            runs = [run_folder(settings, way, seed) for seed in range(settings.seeds)]
            values = [tested(run, settings.listing, decode) for run in runs]
            found.append({"trained": OURS[way], "tested": decode, **mean_and_error(values), "values": values})
            print(f"trained on {OURS[way]}, tested on {decode}: top-1 {found[-1]['mean']:.4f}", flush=True)
    return found


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    settings = parse(Settings, "benchmarks/notebook", argv)
    ours = [way for way in settings.ways if way in OURS]
    if unknown := set(settings.ways) - {PLAIN, *OURS}:
        raise UserError(f"--ways {', '.join(sorted(unknown))}: choose from {', '.join((PLAIN, *OURS))}")
    shards = settings.shards(settings.size)
    if "full" in map(OURS.get, ours):
        settings.shards(settings.size, "full")
    (settings.work / "runs").mkdir(exist_ok=True)
    measurement = Measurement(settings.json, settings.device, settings=vars(settings))
    outcomes: dict[str, list[Outcome]] = {way: [] for way in settings.ways}
    tasks = [(way, seed) for seed in range(settings.seeds) for way in settings.ways]
    for (way, _), outcome in each(partial(measured, settings), tasks, settings.jobs):
        outcomes[way].append(outcome)
        print(line(way, outcome), flush=True)
    outcomes = {way: sorted(of, key=lambda outcome: outcome.seed) for way, of in outcomes.items()}
    differences = {}
    for way in ours if PLAIN in settings.ways else ():
        differences[way] = {
            name: difference(*([getattr(outcome, name) for outcome in outcomes[of]] for of in (way, PLAIN)))
            for name in MEASURED
        }
        print(f"{way} - {PLAIN}: {differences[way]['test_top1']} on test")
    measurement.publish(
        {name: value for name, value in vars(settings).items() if not isinstance(value, Path)},
        recipe=asdict(replace(settings.recipe, weights=settings.weights.name)),
        classes=len(shards.classes),
        samples={name: entry.samples for name, entry in shards.manifest.splits.items()},
        ways={way: summed_up(of) for way, of in outcomes.items()},
        differences=differences,
        decoding=cells(settings) if set(ours) == set(OURS) else [],
    )


if __name__ == "__main__":
    exit_with(main)
