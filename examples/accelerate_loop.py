"""ShardLoader with Hugging Face Accelerate, on one or several processes.

accelerate launch examples/accelerate_loop.py --shards shards/food101
"""

from __future__ import annotations

import argparse

import torch
import torchvision
from accelerate import Accelerator
from torch.nn.functional import cross_entropy
from torchvision.transforms import v2

from food101_fast import ShardLoader, ShardSet
from food101_fast import transforms as T


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", required=True)
    parser.add_argument("--model", default="mobilenet_v2")
    parser.add_argument("--batch-size", type=int, default=64, help="on each process")
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=1)
    args = parser.parse_args()

    accelerator = Accelerator()
    shards = ShardSet.open(args.shards)
    # The loader shares an epoch among the processes by itself, so Accelerate does not wrap it.
    loader = ShardLoader(
        shards,
        split="train",
        batch_size=args.batch_size,
        device=accelerator.device,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
    )
    model = torchvision.models.get_model(args.model, weights=None, num_classes=len(shards.classes))
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-3))
    augment = v2.Compose(
        [T.RandomResizedCrop(args.image_size), T.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)]
    )
    model.train()
    for epoch in range(args.epochs):
        for batch in loader:
            with accelerator.autocast():
                loss = cross_entropy(model(augment(batch.images)), batch.labels)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
        accelerator.print(f"epoch {epoch + 1}: loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
