"""Run by torchrun: iterates over splits on all ranks; rank 0 prints the totals."""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist

from food101_fast.loader import ShardLoader
from food101_fast.shards import ShardSet


def gathered(loader: ShardLoader) -> list[list[int]]:
    """The ids of each step over all ranks, with one collective operation per step: with unequal steps it would hang."""
    steps = []
    for batch in loader:
        of_ranks: list[list[int]] = [[]] * dist.get_world_size()
        dist.all_gather_object(of_ranks, batch.ids.tolist())
        steps.append([sample for ids in of_ranks for sample in ids])
    return steps


def main() -> None:
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    shards = ShardSet.open(sys.argv[1])
    counts = {}
    for split in ("train", "val", "test"):
        loader = ShardLoader(
            shards, split=split, batch_size=2, rank=rank, world_size=world, shuffle=False, drop_last=False
        )
        ids = [sample for step in gathered(loader) for sample in step]
        assert sorted(ids) == list(range(len(loader.split))), (split, ids)
        counts[split] = len(ids)
    loader = ShardLoader(shards, split="train", batch_size=2, rank=rank, world_size=world)
    steps = gathered(loader)
    alone = ShardLoader(shards, split="train", batch_size=2 * world)
    assert steps == [batch.ids.tolist() for batch in alone]
    total = torch.tensor([loader.counters.images])
    dist.all_reduce(total)
    if rank == 0:
        print(f"evaluated {counts}")
        print(f"trained on {total.item()} of {len(loader.split)}, in the order of one process", flush=True)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
