"""Ways to crop and resize each image of a batch at its own position: how fast, and how far from torchvision's pixels.

Called by benchmarks/exactness.py in an environment of its own. All get the same images and the same boxes.
"""

# /// script
# dependencies = ["kornia==0.9.0"]
# ///

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2 import functional as F

from food101_fast import transforms as T
from food101_fast.bench.measure import measure
from food101_fast.transforms.geometry import resized_crop_products

try:
    from kornia.geometry.transform import crop_and_resize
except ImportError:  # where nothing can be installed
    crop_and_resize = None

SIZE = (160, 160)
Params = dict[str, Tensor]


def one_by_one(images: Tensor, params: Params, antialias: bool = True) -> Tensor:
    """torchvision, image by image."""
    boxes = torch.stack([params[name] for name in ("top", "left", "height", "width")], 1).tolist()
    cropped = [
        F.resized_crop(image, *map(int, box), list(SIZE), antialias=antialias)
        for image, box in zip(images, boxes, strict=True)
    ]
    return torch.stack(cropped)


def products(images: Tensor, params: Params, compute: torch.dtype) -> Tensor:
    """Ours for a batch at once: two matrix products."""
    return resized_crop_products(images, **params, size=SIZE, compute=compute)  # type: ignore[arg-type]


def kornia(images: Tensor, params: Params) -> Tensor:
    """Warp of boxes by kornia."""
    top, left = params["top"].float(), params["left"].float()
    bottom, right = top + params["height"] - 1, left + params["width"] - 1
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    boxes = torch.stack([torch.stack(corner, -1) for corner in corners], 1)
    resized: Tensor = crop_and_resize(images, boxes, SIZE)
    return resized


def sampled(images: Tensor, params: Params) -> Tensor:
    """`affine_grid` and `grid_sample`, as many GPU pipelines have it: bilinear, without antialiasing."""
    height, width = images.shape[-2:]
    theta = torch.zeros(len(images), 2, 3, device=images.device)
    theta[:, 0, 0], theta[:, 1, 1] = params["width"] / width, params["height"] / height
    theta[:, 0, 2] = (2 * params["left"] + params["width"]) / width - 1
    theta[:, 1, 2] = (2 * params["top"] + params["height"]) / height - 1
    grid = functional.affine_grid(theta, [len(images), 3, *SIZE], align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def contenders(device: torch.device) -> dict[str, Callable[[Tensor, Params], Tensor]]:
    """All ways, by name."""
    crop = T.RandomResizedCrop(SIZE)
    ways: dict[str, Callable[[Tensor, Params], Tensor]] = {
        "torchvision, image by image": one_by_one,
        "food101_fast": lambda images, params: crop.transform(images, params),
        "food101_fast, a batch at once": lambda images, params: products(images, params, torch.float32),
        "torchvision, antialias=False": lambda images, params: one_by_one(images, params, antialias=False),
        "grid_sample": sampled,
    }
    if device.type == "cuda":
        ways["food101_fast, at once in float16"] = lambda images, params: products(images, params, torch.float16)
    if crop_and_resize is not None:
        ways["kornia, crop_and_resize"] = kornia
    return ways


def main() -> None:
    """Print the results as one line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=Path, required=True, help="file of torch.save: uint8 (N, 3, H, W)")
    parser.add_argument("--device", required=True)
    parser.add_argument("--repetitions", type=int, required=True)
    settings = parser.parse_args()
    device = torch.device(settings.device)
    images = torch.load(settings.images, weights_only=True).to(device).float() / 255
    torch.manual_seed(0)
    params = T.RandomResizedCrop(SIZE).make_params([images])
    ways = contenders(device)
    exact = one_by_one(images, params).double()
    steps = {name: (way(images, params).double() - exact).abs() * 255 for name, way in ways.items()}
    errors = {name: {"largest": step.max().item(), "mean": step.mean().item()} for name, step in steps.items()}

    def work(way: Callable[[Tensor, Params], Tensor]) -> Callable[[], float]:
        def run() -> float:
            way(images, params)
            return len(images)

        return run

    works = {name: work(way) for name, way in ways.items()}
    rates = measure(works, seconds=0.3, repetitions=settings.repetitions, device=device)
    print(json.dumps({"errors": errors, "images_per_second": rates}))


if __name__ == "__main__":
    main()
