"""Shards and webdataset, in both directions.

    python examples/webdataset_interop.py --folder build/interop

1. webdataset writes tars; `index` makes them a data set that this project trains on, with the tars unchanged.
2. webdataset reads what `prepare` wrote.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import webdataset
from PIL import Image

from food101_fast import ShardLoader, ShardSet


def run(*arguments: str) -> None:
    """Run one of the project's commands."""
    subprocess.run([sys.executable, "-m", *arguments], check=True)


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="a new folder")
    folder = parser.parse_args().folder

    foreign = folder / "foreign"
    foreign.mkdir(parents=True)
    for split, count in (("train", 40), ("val", 10)):
        with webdataset.TarWriter(str(foreign / f"{split}-000000.tar")) as writer:
            for number in range(count):
                label = number % 2
                image = Image.new("RGB", (80, 60), (250, 40, 40) if label else (40, 40, 250))
                writer.write({"__key__": f"{number:06d}", "jpg": image, "cls": label})
    tars = sorted(str(path) for path in foreign.glob("*.tar"))
    run("food101_fast.shards", "index", *tars, "--size", "64")
    batch = next(iter(ShardLoader(foreign, split="train", batch_size=8)))
    print(f"tars of webdataset in our loader: {tuple(batch.images.shape)}, labels {batch.labels.tolist()}")

    run("food101_fast.prepare", "--source", "demo:", "--size", "64", "--limit", "200", "--out", str(folder / "shards"))
    shards = ShardSet.open(folder / "shards")
    image, label = next(iter(shards.webdataset("train", shuffle=True)))
    print(f"our shards as a configured webdataset.WebDataset: {image.size}, {shards.classes[label]}")
    plain = webdataset.WebDataset(sorted(map(str, (folder / "shards").glob("train-*.tar"))), shardshuffle=False)
    sample = next(iter(plain.decode()))
    print(f"our shards in webdataset alone: {sample['npy'].shape}, class {sample['cls']}")


if __name__ == "__main__":
    main()
