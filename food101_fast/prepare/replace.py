"""Another image for a class whose every image in val or test turned out damaged.

The split is decided before anything is decoded. When all of a class's images in a split are damaged, one of its intact
training images moves there: the first by key, so that the result depends on the source and the settings alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
    to: str
    """Name of the shard that they move to."""
    note: NotedImage


def replace_damaged(source: Source, planned: Plan, results: Sequence[ShardResult]) -> Plan | None:
    """The plan with an image moved for each split and class that need one; None if none does, or none can be moved.

    The images that move may turn out damaged, too, and then others have to.

    Args:
        source: where the images come from.
        planned: the plan whose shards are written.
        results: of its tasks, in their order.
    """
    intact: dict[int, list[tuple[str, int]]] | None = None  # key and position of training images, by label
    moves: list[_Move] = []
    for split in ("val", "test"):
        if split in planned.given_splits.values():
            continue  # the source's own split stays as it is
        counts = written(split, planned, results)
        for task in planned.tasks:
            for label, position in zip(task.labels, task.positions, strict=True):
                if task.split != split or counts[label]:
                    continue
                intact = _intact(planned, results) if intact is None else intact
                move = _take(source, planned, intact, task, label, position)
                if move is not None:
                    moves.append(move)
                    counts[label] += 1
    return _moved(planned, moves) if moves else None


def _intact(planned: Plan, results: Sequence[ShardResult]) -> dict[int, list[tuple[str, int]]]:
    """Key and position of the training images that were written, by label, sorted."""
    rejected = {reject.key for result in results for reject in result.rejects}
    found: dict[int, list[tuple[str, int]]] = {}
    for task in planned.tasks:
        if task.split == "train":
            for key, position, label in zip(task.keys, task.positions, task.labels, strict=True):
                if key not in rejected:
                    found.setdefault(label, []).append((key, position))
    return {label: sorted(images) for label, images in found.items()}


def _take(
    source: Source,
    planned: Plan,
    intact: dict[int, list[tuple[str, int]]],
    task: ShardTask,
    label: int,
    damaged: int,
) -> _Move | None:
    """Take from `intact` what replaces the damaged image of a class; None if that would leave none to train on."""
    if not intact.get(label):
        return None
    key, position = intact[label][0]
    positions, labels = {position}, [label]
    if planned.groups is not None:
        positions, labels = set(np.flatnonzero(planned.groups == planned.groups[position]).tolist()), list(intact)
    left = {other: [one for one in intact[other] if one[1] not in positions] for other in labels}
    if not all(left.values()):
        return None
    intact.update(left)
    detail = (
        f"moved from train to {task.split}: every image of class {planned.classes[label]} there was damaged, such as "
        f"{source.file(damaged)}"
    )
    note = NotedImage(key=key, file=source.file(position), note=MOVED, detail=detail)
    return _Move(positions=frozenset(positions), to=task.name, note=note)


def _moved(planned: Plan, moves: Sequence[_Move]) -> Plan:
    goes_to = {position: move.to for move in moves for position in move.positions}
    members = [member for task in planned.tasks for member in _members(task)]
    arriving: dict[str, list[_Member]] = {}
    for member in members:
        if member[1] in goes_to:
            arriving.setdefault(goes_to[member[1]], []).append(member)
    tasks = []
    for task in planned.tasks:
        stays = [member for member in _members(task) if member[1] not in goes_to]
        tasks.append(_with_members(task, sorted(stays + arriving.get(task.name, []))))
    return replace(planned, tasks=tuple(tasks), notes=(*planned.notes, *(move.note for move in moves)))


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
