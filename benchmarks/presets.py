"""Images per second of crop + flip against others, and of our presets, eager and compiled, from stored images.

    python benchmarks/presets.py [--device cuda] [--batch-sizes 128 512] [--rows FILE]

Crop + flip is RandomResizedCrop to 160 px and RandomHorizontalFlip with a draw for each sample: ours, torchvision image
by image, kornia where it is installed; and torchvision with one draw for the whole batch, which is another thing. The
contenders take turns. On the CPU nothing is compiled. `transforms.py` measures each transform alone.
"""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from published import Measurement
from torch import Tensor
from torchvision.transforms import v2

from food101_fast import transforms as T
from food101_fast.bench.measure import measure, median_of_ratios
from food101_fast.cli import exit_with, parse

STORED, SIZE, CLASSES = 192, 160, 101

Run = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Images per second of crop + flip and of the presets."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Where to compute."""
    batch_sizes: tuple[int, ...] = (64,)
    """Images per batch."""
    presets: tuple[str, ...] = ("baseline", "trivial", "strong")
    """Presets, in this order; `eval` comes last."""
    batches: int = 1
    """Batches of a repetition; torchvision image by image does one."""
    repetitions: int = 5
    """Repetitions, after one that is not counted."""
    rows: Path | None = None
    """File to append each row to as it is measured."""
    json: Path | None = None
    """File to write the results to."""
    part: str = "presets"
    """What the rows are marked with."""


def ours(preset: T.Preset, images: Tensor) -> dict[str, Run]:
    """A preset as training calls it; on CUDA compiled, too."""
    ids = torch.arange(len(images), device=images.device)
    labels = ids % CLASSES
    epoch = torch.zeros((), dtype=torch.int64, device=images.device)
    ways: dict[str, Callable[..., object]] = {"ours": preset}
    if images.is_cuda:
        ways["ours, compiled"] = torch.compile(preset, fullgraph=True, dynamic=False)
    return {name: partial(way, images, labels, seed=0, epoch=epoch, ids=ids) for name, way in ways.items()}


def crop_and_flip(images: Tensor) -> dict[str, Run]:
    """Ours and the others'."""
    theirs = v2.Compose([v2.RandomResizedCrop(SIZE), v2.RandomHorizontalFlip()])
    preset = T.Preset([T.RandomResizedCrop(SIZE), T.RandomHorizontalFlip()]).to(images.device)
    runs = ours(preset, images) | {
        "torchvision, loop": lambda: torch.stack([theirs(image) for image in images]),
        "torchvision, one draw": lambda: theirs(images),
    }
    try:
        kornia = importlib.import_module("kornia.augmentation")
    except ImportError:
        return runs
    floating = (images.float() / 255).contiguous()
    both = kornia.AugmentationSequential(kornia.RandomResizedCrop((SIZE, SIZE)), kornia.RandomHorizontalFlip())
    return runs | {"kornia": lambda: both(floating)}


def stored(batch: int, device: torch.device) -> Tensor:
    """Smooth random images as the loader gives them: uint8 (N, 3, 192, 192), channels_last."""
    smooth = torch.nn.functional.interpolate(torch.rand(batch, 3, 12, 12), size=STORED, mode="bicubic")
    images = (smooth * 255).clamp(0, 255).to(torch.uint8)
    return images.to(device).contiguous(memory_format=torch.channels_last)


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    settings = parse(Settings, "benchmarks/presets", argv)
    measurement = Measurement(
        settings.json, settings.device, rows=settings.rows, part=settings.part, settings=vars(settings)
    )
    torch.manual_seed(0)
    results: dict[str, dict[str, list[float]]] = {}
    for batch in settings.batch_sizes:
        images = stored(batch, measurement.device)
        makers: dict[str, Callable[[], dict[str, Run]]] = {"crop + flip": partial(crop_and_flip, images)}
        for name in settings.presets:
            preset = T.train_preset(name, SIZE, num_classes=CLASSES).to(measurement.device)
            makers[f"preset {name}"] = partial(ours, preset, images)
        last = T.eval_preset(SIZE, STORED).to(measurement.device)
        makers["preset eval"] = partial(ours, last, images)
        for name, make in makers.items():
            torch.compiler.reset()

            def work(library: str, run: Run, batch: int = batch) -> Callable[[], int]:
                times = 1 if "loop" in library else settings.batches

                def several() -> int:
                    for _ in range(times):
                        run()
                    return batch * times

                return several

            works = {library: work(library, run) for library, run in make().items()}
            rates = measure(works, seconds=0, repetitions=settings.repetitions, device=measurement.device)
            best = rates.get("ours, compiled", rates["ours"])
            for library, values in rates.items():
                title = f"{name}, batch {batch}: {library}"
                over = {"best of ours": median_of_ratios(best, values)}
                measurement.rows.rates(title, values, over=over)
                print(f"{title:<48}{statistics.median(values):>12,.0f} images/s", flush=True)
            results[f"{name}, batch {batch}"] = rates
    kept = {name: value for name, value in vars(settings).items() if name not in ("json", "rows")}
    measurement.publish(kept, images_per_second=results)


if __name__ == "__main__":
    exit_with(main)
