"""Images per second of each transform and preset: ours, torchvision, kornia, torchaug and DALI.

Called by benchmarks/transforms.py in an environment of its own. torchvision runs in a loop, and once for each batch.
Every library gets the input it is made for: kornia float images, the others uint8; on the CPU all in contiguous memory,
on CUDA ours and torchvision's channels_last, as they come from the loader. torchaug draws for each sample if it has as
many chunks as samples. DALI's `experimental.torchvision` draws for each sample; it has crops, flips, blur and color,
the last not for batches of tensors. All take turns, with each number of threads.
"""

# /// script
# dependencies = ["kornia==0.9.0", "nvidia-dali-cuda130==2.4.0"]
# [tool.peers]
# without-dependencies = ["torchaug==0.6.1"]  # it asks for a torchvision of two years ago, and works with this one
# ///

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from food101_fast import transforms as T

try:
    import kornia.augmentation as K
except ImportError:  # where nothing can be installed
    K = None
try:
    import torchaug.transforms as ta
except ImportError:
    ta = None
try:
    import nvidia.dali.experimental.torchvision as dali
    import nvidia.dali.types as dali_types
except ImportError:
    dali = None

Run = Callable[[], Any]
SIZE = 160
CLASSES = 101


def looped(transform: Callable[[Tensor], Tensor], images: Tensor) -> Run:
    """What a plain loop over torchvision does."""
    return lambda: torch.stack([transform(image) for image in images])


def keyed(preset: T.Preset, images: Tensor) -> Run:
    """A preset, as a training run calls it."""
    ids = torch.arange(len(images), device=images.device)
    labels = ids % CLASSES
    epoch = torch.zeros((), dtype=torch.int64, device=images.device)
    return lambda: preset(images, labels, seed=0, epoch=epoch, ids=ids)


ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "RandomResizedCrop": (SIZE,),
    "RandomHorizontalFlip": (),
    "RandomVerticalFlip": (),
    "RandomRotation": (15, InterpolationMode.BILINEAR),
    "RandomAffine": (15, (0.1, 0.1), (0.9, 1.1), 5, InterpolationMode.BILINEAR),
    "RandomPerspective": (0.5, 1.0),
    "ColorJitter": (0.2, 0.2, 0.2, 0.02),
    "RandomGrayscale": (0.5,),
    "GaussianBlur": (5,),
    "RandomErasing": (1.0,),
    "TrivialAugmentWide": (),
    "RandAugment": (),
    "AutoAugment": (),
    "AugMix": (),
}
"""Of the transforms that are measured: what they are made with, here and in torchvision."""


def kornias() -> dict[str, Any]:
    """The same of kornia."""
    made = {
        "RandomResizedCrop": K.RandomResizedCrop((SIZE, SIZE)),
        "RandomHorizontalFlip": K.RandomHorizontalFlip(),
        "RandomVerticalFlip": K.RandomVerticalFlip(),
        "RandomRotation": K.RandomRotation(15.0, p=1.0),
        "RandomAffine": K.RandomAffine(15.0, (0.1, 0.1), (0.9, 1.1), 5.0, p=1.0),
        "RandomPerspective": K.RandomPerspective(0.5, p=1.0),
        "ColorJitter": K.ColorJiggle(0.2, 0.2, 0.2, 0.02, p=1.0),
        "RandomGrayscale": K.RandomGrayscale(p=0.5),
        "GaussianBlur": K.RandomGaussianBlur((5, 5), (0.1, 2.0), p=1.0),
        "RandomErasing": K.RandomErasing(p=1.0),
    }
    both = (K.RandomResizedCrop((SIZE, SIZE)), K.RandomHorizontalFlip())
    return {**made, "RandomResizedCrop + flip": K.AugmentationSequential(*both)}


def torchaugs() -> dict[str, Any]:
    """The same of torchaug, a draw for each sample."""
    whole: dict[str, Any] = {"batch_transform": True}
    each = {**whole, "num_chunks": -1}
    made = {
        name: getattr(ta, name)(*ARGUMENTS[name], **whole) for name in ("RandomHorizontalFlip", "RandomVerticalFlip")
    }
    made |= {name: getattr(ta, name)(*ARGUMENTS[name], **whole) for name in ("RandomGrayscale", "GaussianBlur")}
    for name in ("RandomResizedCrop", "RandomPerspective", "ColorJitter", "RandomErasing"):
        made[name] = getattr(ta, name)(*ARGUMENTS[name], **each)
    bilinear = InterpolationMode.BILINEAR
    made["RandomRotation"] = ta.RandomRotation(15, bilinear, **each)
    made["RandomAffine"] = ta.RandomAffine(*ARGUMENTS["RandomAffine"][:4], interpolation=bilinear, **each)
    both = [made["RandomResizedCrop"], made["RandomHorizontalFlip"]]
    return {**made, "RandomResizedCrop + flip": v2.Compose(both)}


def dalis(images: Tensor, threads: int) -> dict[str, Any]:
    """The same of DALI."""
    if not torch.cuda.is_available():
        # It asks torch for the current CUDA stream, also for tensors on the CPU, which fails without a driver.
        dali_types._get_default_stream_for_array = lambda array: None
    device = "gpu" if images.is_cuda else "cpu"

    def pipeline(*operators: Any) -> Any:
        return dali.Compose(list(operators), batch_size=len(images), num_threads=threads)

    crop, flip = dali.RandomResizedCrop(SIZE, device=device), dali.RandomHorizontalFlip(device=device)
    return {
        "RandomResizedCrop": pipeline(crop),
        "RandomHorizontalFlip": pipeline(flip),
        "RandomVerticalFlip": pipeline(dali.RandomVerticalFlip(device=device)),
        "GaussianBlur": pipeline(dali.GaussianBlur(5, device=device)),
        "RandomResizedCrop + flip": pipeline(crop, flip),
    }


def rows(images: Tensor, floating: Tensor, threads: int) -> dict[str, dict[str, Run]]:
    """By transform and by library what is measured."""
    contiguous = images.contiguous()
    made: dict[str, dict[str, Run]] = {}
    for name, arguments in ARGUMENTS.items():
        ours, theirs = getattr(T, name)(*arguments), getattr(v2, name)(*arguments)
        made[name] = {
            "ours": partial(ours, images),
            "torchvision, loop": looped(theirs, images),
            "torchvision, one draw": partial(theirs, images),
        }
    theirs = v2.Compose([v2.RandomResizedCrop(SIZE), v2.RandomHorizontalFlip()])
    made["RandomResizedCrop + flip"] = {
        "ours": keyed(T.Preset([T.RandomResizedCrop(SIZE), T.RandomHorizontalFlip()]), images),
        "torchvision, loop": looped(theirs, images),
        "torchvision, one draw": lambda: theirs(images),
    }
    for library, transforms, batch in (
        ("kornia", kornias() if K is not None else {}, floating),
        ("torchaug", torchaugs() if ta is not None else {}, contiguous),
        ("DALI", dalis(images, threads) if dali is not None else {}, contiguous),
    ):
        for name, transform in transforms.items():
            made[name][library] = partial(transform, batch)
    labels = torch.arange(len(images), device=images.device) % CLASSES
    normalised = floating - 0.5
    for name in ("MixUp", "CutMix"):
        ours, once = (getattr(module, name)(num_classes=CLASSES) for module in (T, v2))

        def pairs(once: Any = once) -> None:
            for index in range(len(normalised)):
                once(normalised[[index, index - 1]], labels[[index, index - 1]])

        made[name] = {
            "ours": partial(ours, normalised, labels),
            "torchvision, loop": pairs,
            "torchvision, one draw": partial(once, normalised, labels),
        }
    for name in T.PRESETS:
        preset = T.train_preset(name, SIZE, num_classes=CLASSES).to(images.device)
        made[f"preset {name}"] = {"ours": keyed(preset, images)}
    made["preset eval"] = {"ours": keyed(T.eval_preset(SIZE, images.shape[-1]).to(images.device), images)}
    if images.is_cuda:
        for name, libraries in made.items():
            if name.startswith("preset") or name == "RandomResizedCrop + flip":
                libraries["ours, compiled"] = torch.compile(libraries["ours"])
    return made


def measure(run: Run, images: Tensor, seconds: float) -> float:
    """Images per second of as many batches as `seconds` hold, one at the least."""
    if images.is_cuda:
        torch.cuda.synchronize()
    done, begun = 0, time.perf_counter()
    while not done or time.perf_counter() - begun < seconds:
        run()
        done += len(images)
        if images.is_cuda:
            torch.cuda.synchronize()
    return done / (time.perf_counter() - begun)


def main() -> None:
    """Print the results as one line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", required=True)
    for name, kind in (("batch-size", int), ("repetitions", int), ("seconds", float)):
        parser.add_argument(f"--{name}", type=kind, required=True)
    parser.add_argument("--threads", required=True, help="numbers, with commas; none for torch's own")
    parser.add_argument("--names", required=True, help="of transforms, with commas; none for all")
    settings = parser.parse_args()
    torch.manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(settings.batch_size, 3, 12, 12), size=192, mode="bicubic")
    layout = torch.contiguous_format if settings.device == "cpu" else torch.channels_last
    images = (smooth * 255).clamp(0, 255).to(torch.uint8).to(settings.device, memory_format=layout)
    floating = (images.float() / 255).contiguous()
    counts = [int(count) for count in settings.threads.split(",") if count] or [torch.get_num_threads()]
    names = settings.names.split(",") if settings.names else []
    made = {
        count: {name: of for name, of in rows(images, floating, count).items() if name in names or not names}
        for count in counts
    }
    rates: dict[int, dict[str, dict[str, list[float]]]] = {
        count: {name: {library: [] for library in of} for name, of in by_name.items()}
        for count, by_name in made.items()
    }
    for repetition in range(settings.repetitions + 1):
        for count, by_name in made.items():
            torch.set_num_threads(count)
            for name, runs in by_name.items():
                for library, run in runs.items():
                    rate = measure(run, images, settings.seconds)
                    if repetition:
                        rates[count][name][library].append(rate)
    packages = {"torch": torch, "torchvision": v2, "kornia": K, "torchaug": ta, "nvidia-dali-cuda130": dali}
    versions = {name: version(name) for name, library in packages.items() if library is not None}
    result = {"versions": versions, "images_per_second": rates[counts[-1]], "by_threads": rates}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
