"""Another image for a class whose every image in val or test turned out damaged.

The split is decided before anything is decoded. When all of a class's images in a split are damaged, one of its intact
training images moves there: the first by key, so that the result depends on the source and the settings alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from food101_fast.prepare.plan import Plan
from food101_fast.prepare.records import ShardResult, ShardTask
from food101_fast.prepare.sources import Source
from food101_fast.prepare.summary import written
from food101_fast.shards.rejects import NotedImage

MOVED = "moved"
"""Kind of the note about an image that moved to another split."""


@dataclass(frozen=True, kw_only=True)
class _Move:
    positions: frozenset[int]
    """Files that move: one, or all of its group."""
    to: ShardTask
    """The shard that they move to."""
    note: NotedImage


def replace_damaged(source: Source, planned: Plan, results: Sequence[ShardResult]) -> Plan | None:
    """The plan with one image moved to the first split and class that need one; None if none does or none can be.

    Args:
        source: where the images come from.
        planned: the plan whose shards are written.
        results: of its tasks, in their order.
    """
    for split in ("val", "test"):
        if split in planned.given_splits.values():
            continue  # the source's own split stays as it is
        counts = written(split, planned, results)
        for task in planned.tasks:
            if task.split != split:
                continue
            for number, label in enumerate(task.labels):
                if counts[label] == 0 and (move := _find(source, planned, results, task, number)) is not None:
                    return _moved(planned, move)
    return None


def _find(source: Source, planned: Plan, results: Sequence[ShardResult], task: ShardTask, number: int) -> _Move | None:
    """The image that replaces damaged image `number` of `task`."""
    label = task.labels[number]
    if written("train", planned, results)[label] < 2:
        return None
    rejected = {reject.key for result in results for reject in result.rejects}
    candidates = sorted(
        (key, position)
        for other in planned.tasks
        if other.split == "train"
        for position, key, of_class in zip(other.positions, other.keys, other.labels, strict=True)
        if of_class == label and key not in rejected
    )
    key, position = candidates[0]
    positions = {position}
    if planned.groups is not None:
        positions = set(np.flatnonzero(planned.groups == planned.groups[position]).tolist())
        if len(positions.intersection(position for _, position in candidates)) == len(candidates):
            return None  # the class would have no group left to train on
    detail = (
        f"moved from train to {task.split}: every image of class {planned.classes[label]} there was damaged, such as "
        f"{source.file(task.positions[number])}"
    )
    return _Move(
        positions=frozenset(positions),
        to=task,
        note=NotedImage(key=key, file=source.file(position), note=MOVED, detail=detail),
    )


def _moved(planned: Plan, move: _Move) -> Plan:
    members = list(chain.from_iterable(map(_members, planned.tasks)))
    moving = [member for member in members if member[1] in move.positions]
    tasks = []
    for task in planned.tasks:
        stays = [member for member in _members(task) if member[1] not in move.positions]
        if task is move.to:
            stays = sorted([*stays, *moving])
        tasks.append(_with_members(task, stays))
    return replace(planned, tasks=tuple(tasks), notes=(*planned.notes, move.note))


_Member = tuple[str, int, int, int | None]


def _members(task: ShardTask) -> list[_Member]:
    """Name in the tar up to the suffix, position, label and hash of each image."""
    hashes = task.hashes or (None,) * len(task)
    names = (key + "." for key in task.keys)
    return list(zip(names, task.positions, task.labels, hashes, strict=True))


def _with_members(task: ShardTask, members: Sequence[_Member]) -> ShardTask:
    return replace(
        task,
        positions=tuple(position for _, position, _, _ in members),
        labels=tuple(label for _, _, label, _ in members),
        keys=tuple(name.removesuffix(".") for name, _, _, _ in members),
        hashes=None if task.hashes is None else tuple(digest for _, _, _, digest in members if digest is not None),
    )
