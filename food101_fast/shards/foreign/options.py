"""What a user chooses when tars of other programs are indexed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from food101_fast.limits import check_limits

KeyEnd = Literal["first-dot", "last-dot"]


@dataclass(frozen=True, kw_only=True)
class IndexOptions:
    """How the tars are read and split."""

    split: Literal["train", "val", "test"] | None = None
    """The split of all tars. By default the name of each tar tells it, such as train-000000.tar or validation-01.tar,
    or else the name of its folder, such as train/000000.tar."""
    val_fraction: Annotated[float, Gt(0), Lt(1)] | None = None
    """Cut a val split of this share from train, stratified by class. The tars stay as they are: two indexes share
    one."""
    seed: Annotated[int, Ge(0)] = 0
    """Decides which samples --val-fraction takes."""
    label_from: Literal["member", "folder"] = "member"
    """Where labels are: in a member of each sample (.cls, .label, .json, .txt), or in the name of the folder that
    each image is in, for tars of class folders."""
    label_field: str = "label"
    """The field of a sample's json with its label, a number or a text."""
    key_ends_at: KeyEnd = "first-dot"
    """Where the key of a sample ends in a file name. first-dot is webdataset's rule: IMG_1.edited.jpg belongs to the
    sample IMG_1. With last-dot it is the image of a sample IMG_1.edited."""
    max_collisions: Annotated[float, Ge(0), Le(1)] = 0.01
    """Refuse the tars if more than this share of the images would be lost because another member of the tar has their
    key (reason key-collision in rejects.jsonl); 1 never refuses."""
    replace: bool = False
    """Write the index again if there is one already."""

    def __post_init__(self) -> None:
        check_limits(self)
