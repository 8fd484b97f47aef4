"""A whole training loop around ShardLoader and the batch transforms, with any torchvision model.

python examples/train_in_100_lines.py --shards shards/food101 --model mobilenet_v2 --epochs 3
"""

from __future__ import annotations

import argparse

import torch
import torchvision
from torch import nn
from torch.nn.functional import cross_entropy
from torchvision.transforms import v2

from food101_fast import ShardLoader, ShardSet
from food101_fast import transforms as T

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", required=True)
    parser.add_argument("--model", default="mobilenet_v2")
    parser.add_argument("--weights", default=None, help="such as DEFAULT, which is downloaded; random without it")
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    args = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    shards = ShardSet.open(args.shards)
    train = ShardLoader(shards, split="train", batch_size=args.batch_size, device=device)
    val = ShardLoader(shards, split="val", batch_size=args.batch_size, device=device, shuffle=False, drop_last=False)

    model = with_head(torchvision.models.get_model(args.model, weights=args.weights), len(shards.classes))
    model = model.to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, fused=device == "cuda")
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.learning_rate, total_steps=args.epochs * len(train))

    to_float = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
    augment = v2.Compose(
        [
            T.RandomResizedCrop(args.image_size),
            T.RandomHorizontalFlip(),
            T.ColorJitter(0.2, 0.2, 0.2),
            to_float,
        ]
    )
    to_model_size = v2.Compose([v2.Resize(args.image_size), to_float])

    for epoch in range(args.epochs):
        model.train()
        for batch in train:
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                loss = cross_entropy(model(augment(batch.images)), batch.labels, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}, validation top-1 {accuracy(model, val, to_model_size):.4f}")


def with_head(model: nn.Module, classes: int) -> nn.Module:
    """Replace the last linear layer, which makes the scores of the classes."""
    name, last = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, nn.Linear(last.in_features, classes))
    return model


@torch.inference_mode()
def accuracy(model: nn.Module, loader: ShardLoader, transform: v2.Compose) -> float:
    """Share of a split whose most probable class is the right one."""
    model.eval()
    correct = sum((model(transform(batch.images)).argmax(1) == batch.labels).sum() for batch in loader)
    return float(correct) / len(loader.split)


if __name__ == "__main__":
    main()
