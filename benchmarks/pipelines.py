"""Whole pipelines, from the photographs to the weights: ours, the notebook's, torchvision's reference and timm's.

    python benchmarks/pipelines.py --source PHOTOS [--model mobilenet_v2] [--device cpu|cuda] [--json FILE]

All get the same photographs (longest side 512 px), model, optimizer, crop and flip to 160 px, batches and number of
worker processes. Two things are timed, all in turns:

- `input`: an epoch of batches, augmented, normalized and on the device, without a model: the fastest that any model
  could be trained on this machine.
- `training`: the same epoch with its training steps.

What each pipeline does is written down here from the training script of its project; timm's and torchvision's own
functions are called where they are in the package. On CUDA ours compiles its model, which is its default, and the
others do not, which is theirs. "192 px" are the same with files that were resized before, as a careful user would do.
What is done once before the first epoch is not in it: see prepare.py.
"""

from __future__ import annotations

import copy
import dataclasses
import statistics
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import steps
import torch
from published import Measurement
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import transforms as v1
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from food101_fast import transforms as T
from food101_fast.bench.measure import measure, median_of_ratios
from food101_fast.cli import exit_with, parse
from food101_fast.errors import UserError
from food101_fast.loader import ShardLoader
from food101_fast.models import build_model
from food101_fast.prepare import PrepareSettings, prepare
from food101_fast.train import Recipe
from food101_fast.transforms.normalize import MEAN, STD

SIZE, STORED = 160, 192

Batches = Iterable[tuple[Tensor, Tensor]]
"""One epoch each time it is gone through: normalized float32 images and labels on the device."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Whole pipelines on the same photographs."""

    source: Path
    """Folder with a folder of JPEGs for each class."""
    json: Path | None = None
    """File to write the results to."""
    model: str = "mobilenet_v2"
    """torchvision model, with random weights."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to train."""
    images: int = 768
    """Photographs of an epoch; whole batches of them."""
    batch_size: int = 64
    """Images in one step."""
    workers: int = 2
    """Worker processes of each DataLoader."""
    repetitions: int = 5
    """Repetitions, after one that is not counted."""


@dataclass(frozen=True)
class Pipeline:
    """One way from files to weights."""

    batches: Batches
    step: str | None
    """Of `steps.CONTENDERS`; None where training differs in nothing but the files."""
    source: str
    """Where it is recommended."""


class OnDevice:
    """A DataLoader's batches, copied to the device as torchvision's and most loops do."""

    def __init__(self, dataset: Dataset[Any], settings: Settings) -> None:
        self._device = torch.device(settings.device)
        self._loader = DataLoader(
            dataset,
            settings.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=settings.workers,
            persistent_workers=True,
            pin_memory=self._device.type == "cuda",
        )

    def __iter__(self) -> Any:
        for images, labels in self._loader:
            yield images.to(self._device, non_blocking=True), labels.to(self._device, non_blocking=True)


class Ours:
    """Raw shards, then the preset `baseline` on whole batches."""

    def __init__(self, shards: Path, settings: Settings) -> None:
        self._device = torch.device(settings.device)
        self._batches = settings.images // settings.batch_size
        self._loader = ShardLoader(shards, split="train", batch_size=settings.batch_size, device=self._device)
        self._preset = T.train_preset("baseline", SIZE).to(self._device)

    def __iter__(self) -> Any:
        for _, batch in zip(range(self._batches), self._loader, strict=False):
            yield self._preset(batch.images, batch.labels, seed=0, epoch=0, ids=batch.ids)


def timms(folder: Path, settings: Settings) -> Batches:
    """The data set and loader of timm, with its prefetcher, and no augmentation but crop and flip."""
    from timm.data import ImageDataset, create_loader

    dataset = ImageDataset(str(folder))  # type: ignore[no-untyped-call]
    loader: Batches = create_loader(
        TransformedSubset(dataset, _chosen(len(dataset), settings)),  # type: ignore[arg-type]
        input_size=(3, SIZE, SIZE),
        batch_size=settings.batch_size,
        is_training=True,
        color_jitter=None,  # type: ignore[arg-type]
        interpolation="bilinear",
        mean=MEAN,
        std=STD,
        num_workers=settings.workers,
        device=torch.device(settings.device),
        pin_memory=settings.device != "cpu",
    )
    return loader


class TransformedSubset(Subset[Any]):
    """So many samples of a data set, whose transform timm sets from outside."""

    @property
    def transform(self) -> Any:
        """Of the data set."""
        return self.dataset.transform  # type: ignore[attr-defined]

    @transform.setter
    def transform(self, value: Any) -> None:
        self.dataset.transform = value  # type: ignore[attr-defined]


def _chosen(available: int, settings: Settings) -> list[int]:
    """The samples of an epoch."""
    generator = torch.Generator().manual_seed(0)
    return torch.randperm(available, generator=generator)[: settings.images].tolist()


def folder_of(root: Path, transform: Any, settings: Settings) -> Batches:
    """ImageFolder of torchvision, with Pillow, which is its default."""
    dataset = ImageFolder(str(root), transform=transform)
    return OnDevice(Subset(dataset, _chosen(len(dataset), settings)), settings)


def resized(shards: Path, folder: Path) -> Path:
    """Class folders with the files of JPEG shards."""
    for path in sorted(shards.glob("*.tar")):
        with tarfile.open(path) as tar:
            tar.extractall(folder, [member for member in tar if member.name.endswith(".jpg")], filter="data")
    return folder


def pipelines(source: Path, small: Path, shards: Path, settings: Settings) -> dict[str, Callable[[], Pipeline]]:
    """All of them, by name."""
    notebook = v1.Compose(
        [v1.RandomResizedCrop(SIZE), v1.RandomHorizontalFlip(), v1.ToTensor(), v1.Normalize(MEAN, STD)]
    )
    reference = v2.Compose(
        [
            v2.RandomResizedCrop(SIZE, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float, scale=True),
            v2.Normalize(MEAN, STD),
            v2.ToPureTensor(),
        ]
    )
    of_torchvision = "https://github.com/pytorch/vision/tree/main/references/classification"
    of_timm = "https://huggingface.co/docs/timm/training_script"
    return {
        "food101_fast": lambda: Pipeline(Ours(shards, settings), "food101_fast", "README.md"),
        "the notebook": lambda: Pipeline(folder_of(source, notebook, settings), "bare", "its own cells"),
        "torchvision": lambda: Pipeline(folder_of(source, reference, settings), "torchvision", of_torchvision),
        "timm": lambda: Pipeline(timms(source, settings), "timm", of_timm),
        "torchvision, 192 px": lambda: Pipeline(folder_of(small, reference, settings), None, of_torchvision),
        "timm, 192 px": lambda: Pipeline(timms(small, settings), None, of_timm),
    }


def inputs(batches: Batches) -> Callable[[], int]:
    """An epoch without a model."""
    return lambda: sum(len(images) for images, _ in batches)


def training(batches: Batches, step: steps.Step) -> Callable[[], int]:
    """An epoch of training."""

    def run() -> int:
        done = 0
        for images, labels in batches:
            step(images.contiguous(memory_format=torch.channels_last), labels)
            done += len(labels)
        return done

    return run


def compare(settings: Settings, folder: Path) -> dict[str, Any]:
    """Rates of all pipelines; one that can't run is listed with the reason.

    Raises:
        UserError: an epoch has no whole batch, or there are fewer photographs.
    """
    device = torch.device(settings.device)
    files = sorted(settings.source.glob("*/*.jpg"))
    if not settings.batch_size <= settings.images <= 0.8 * len(files):
        raise UserError(
            f"--images {settings.images} should be a batch ({settings.batch_size}) at the least, and at the most four "
            f"fifths of the {len(files)} JPEGs in the class folders of {settings.source}"
        )
    job = PrepareSettings(source=f"folder:{settings.source}", out=folder / "raw", size=STORED, workers=settings.workers)
    prepare(job)
    prepare(dataclasses.replace(job, out=folder / "jpeg", encoding="jpeg"))
    small = resized(folder / "jpeg", folder / "small")
    amp: Any = "fp16" if device.type == "cuda" else "off"
    recipe = Recipe(model=settings.model, weights="none", image_size=SIZE, batch_size=settings.batch_size, amp=amp)
    torch.manual_seed(0)
    first = build_model(settings.model, "none", len({file.parent.name for file in files})).train()
    feeding: dict[str, Callable[[], int]] = {}
    learning: dict[str, Callable[[], int]] = {}
    sources: dict[str, str] = {}
    reasons: dict[str, str] = {}
    for name, make in pipelines(settings.source, small, folder / "raw", settings).items():
        try:
            pipeline = make()
        except (ImportError, RuntimeError) as error:
            reasons[name] = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        sources[name] = pipeline.source
        feeding[name] = inputs(pipeline.batches)
        if pipeline.step is not None:
            model = copy.deepcopy(first).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            learning[name] = training(pipeline.batches, steps.CONTENDERS[pipeline.step](model, recipe, device))
    timing: dict[str, Any] = {"seconds": 0, "repetitions": settings.repetitions, "device": device}
    rates = {"input": measure(feeding, **timing), "training": measure(learning, **timing)}
    return {"files": len(files), "images_per_second": rates, "sources": sources, "not_run": reasons}


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    settings = parse(Settings, "benchmarks/pipelines", argv)
    measurement = Measurement(settings.json, settings.device)
    with tempfile.TemporaryDirectory() as folder:
        result = compare(settings, Path(folder))
    for kind, of in result["images_per_second"].items():
        print(f"\n{kind:<24}{'images/s':>10}{'lowest':>10}{'highest':>10}{'ours is':>10}")
        for name, rates in of.items():
            ratio = f"{median_of_ratios(of['food101_fast'], rates):>9.2f}x"
            print(f"{name:<24}{statistics.median(rates):>10,.0f}{min(rates):>10,.0f}{max(rates):>10,.0f}{ratio}")
    for name, reason in result["not_run"].items():
        print(f"{name:<24}{reason}")
    kept = {name: value for name, value in vars(settings).items() if name not in ("json", "source")}
    measurement.publish(kept, **result)


if __name__ == "__main__":
    exit_with(main)
