"""ShardLoader with Lightning: the loader is the dataloader, and the augmentation runs in the training step.

python examples/lightning_loop.py --shards shards/food101
"""

from __future__ import annotations

import argparse

import lightning
import torch
import torchvision
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchvision.transforms import v2

from food101_fast import ShardLoader, ShardSet
from food101_fast import transforms as T
from food101_fast.loader import Batch


class Classifier(lightning.LightningModule):
    """A torchvision model with augmentation on the batch."""

    def __init__(self, model: str, classes: int, image_size: int) -> None:
        super().__init__()
        self.model = torchvision.models.get_model(model, weights=None, num_classes=classes)
        self.augment = v2.Compose(
            [T.RandomResizedCrop(image_size), T.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)]
        )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = cross_entropy(self.model(self.augment(batch.images)), batch.labels)
        self.log("loss", loss, prog_bar=True, batch_size=len(batch.labels))
        return loss

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch  # the loader delivers on the device

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", required=True)
    parser.add_argument("--model", default="mobilenet_v2")
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=1)
    args = parser.parse_args()
    shards = ShardSet.open(args.shards)
    loader = ShardLoader(shards, split="train", batch_size=64, device="cuda" if torch.cuda.is_available() else "cpu")
    model = Classifier(args.model, len(shards.classes), args.image_size)
    trainer = lightning.Trainer(max_epochs=args.epochs, devices=1, logger=False, enable_checkpointing=False)
    trainer.fit(model, loader)


if __name__ == "__main__":
    main()
