"""Refuse tars of which too much would be lost: the sentence names each cause, with its count and an example."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from food101_fast.errors import UserError
from food101_fast.shards.foreign.find import Tars
from food101_fast.shards.foreign.options import IndexOptions
from food101_fast.shards.foreign.samples import COLLISION, LAST_DOT_HELPS
from food101_fast.shards.foreign.scan import Found
from food101_fast.shards.layout import REJECTS_NAME
from food101_fast.shards.rejects import NO_IMAGE, Reject


def check_losses(tars: Tars, found: Sequence[Found], options: IndexOptions) -> None:
    """Check what the samples of all tars leave out.

    Args:
        tars: all tars.
        found: what each of them has.
        options: how they were read.

    Raises:
        UserError: too many images share a key, or a split has no samples.
    """
    rejects = [reject for of_tar in found for reject in of_tar.rejects]
    written = sum(len(of_tar.spans) for of_tar in found)
    images = written + sum(reject.reason != NO_IMAGE for reject in rejects)
    collisions = [reject for reject in rejects if reject.reason == COLLISION]
    if len(collisions) > options.max_collisions * images:
        raise UserError(
            f"{len(collisions):,} of {images:,} images in {tars.folder.url} would be lost because of their names: "
            f"{_causes(collisions)}; correct that, or give --max-collisions 1 to go on without them and have all "
            f"listed in {REJECTS_NAME}"
        )
    for split in dict.fromkeys(tars.splits.values()):
        of_split = [of_tar for of_tar in found if tars.splits[of_tar.name] == split]
        if not any(of_tar.spans for of_tar in of_split):
            raise UserError(_no_sample(tars, split, of_split, options))


def _causes(collisions: Sequence[Reject]) -> str:
    """How many images are lost by each cause, the most frequent one first, with an example of each."""
    dots = [reject for reject in collisions if reject.detail.endswith(LAST_DOT_HELPS)]
    again = [reject for reject in collisions if not reject.detail.endswith(LAST_DOT_HELPS)]
    causes = [
        f"{len(lost):,} {what}, such as {lost[0].file} ({lost[0].detail})"
        for lost, what in ((dots, "because of a dot in the name"), (again, "because a name or key repeats"))
        if lost
    ]
    return ", and ".join(causes if len(dots) >= len(again) else causes[::-1])


def _no_sample(tars: Tars, split: str, of_split: Sequence[Found], options: IndexOptions) -> str:
    lost = [reject for of_tar in of_split for reject in of_tar.rejects]
    why = f" ({_typical(lost).detail})" if lost else ""
    if options.label_from == "folder":
        needs = "an image (jpg, png, webp, npy, ...) in a folder that is its class"
    else:
        needs = (
            "an image (jpg, png, webp, npy, ...), and a .cls, .label, .txt or .json with its label; if the folders "
            "in the tars are the classes, give --label-from folder"
        )
    return (
        f"the {split} tars in {tars.folder.url} have no sample with an image and a label{why}; a sample needs {needs}"
    )


def _typical(rejects: Sequence[Reject]) -> Reject:
    """A reject with the most frequent reason, or else the first."""
    reason = Counter(reject.reason for reject in rejects).most_common(1)[0][0]
    return next(reject for reject in rejects if reject.reason == reason)
