"""Which folders of a source are splits, and which are classes: train/CLASS and val/CLASS, or CLASS alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from food101_fast.errors import UserError
from food101_fast.shards.layout import split_of_name

_IMAGE_SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".png",
    ".webp",
    ".gif",
    ".bmp",
    ".tif",
    ".tiff",
    ".avif",
    ".heic",
    ".heif",
    ".jxl",
    ".ppm",
)


def is_image_name(file: str) -> bool:
    """Whether a file name has the suffix of an image format."""
    return file.lower().endswith(_IMAGE_SUFFIXES)


def find_split_folders(files: Sequence[str], url: str) -> dict[str, str] | None:
    """The split folders of a source.

    Folders are splits if all of them are named after one, such as `train2017` or `seg_train`, and a class folder
    repeats in two of them. They may be inside of one outer folder (`data/train/CLASS`), and may have one more inside
    (`seg_train/seg_train/CLASS`).

    Args:
        files: paths of the files below the source.
        url: the source, for errors.

    Returns:
        The name of each split folder by the path that has its class folders, which ends in `/`; None where the
        folders are classes.

    Raises:
        UserError: the folders may be splits or classes, or the splits have one class only.
    """
    outer = ""
    while True:
        folders = _folders(files, outer)
        if len(folders) != 1:
            break
        outer += f"{folders[0]}/"
    named = [name for name in folders if split_of_name(name)]
    if not named or (len(named) == 1 and len(folders) > 1):  # one of many: a class, such as the vehicle
        return None
    inner = {_inner(files, f"{outer}{name}/"): name for name in named}
    classes = {name: _folders(files, path) for path, name in inner.items()}
    seen = Counter(folder for of_split in classes.values() for folder in of_split)
    repeat = [name for name, times in seen.items() if times > 1]
    where = f"{url}/{outer}".rstrip("/")
    images = [file for file in files if is_image_name(file)]
    others = sorted(set(_folders(images, outer)) - set(named))
    if others and not repeat:
        return None
    if others:
        raise UserError(
            f"{where} has folders named like splits ({', '.join(named)}) with the same class folders, and also "
            f"{', '.join(others)}; move the splits, or the others, to another folder"
        )
    if not seen:
        raise UserError(
            f"the split folders of {where} ({', '.join(named)}) have no class folders; put each class's images into a "
            "folder of its own there"
        )
    unlabeled_rest = all(not classes[name] for name in named if split_of_name(name) != "train")
    if not repeat and not unlabeled_rest:
        having = "; ".join(f"{name} has {', '.join(classes[name][:3]) or 'none'}" for name in named)
        raise UserError(
            f"the folders of {where} are named like splits, but no class folder is in two of them ({having}); rename "
            "the folders, or give a list of the files with --source table:"
        )
    if len(seen) < 2:
        raise UserError(
            f"the splits of {where} ({', '.join(named)}) have one class folder only, {next(iter(seen))}; a classifier "
            "needs two or more classes"
        )
    return inner


def _folders(files: Sequence[str], prefix: str) -> list[str]:
    """Names of the folders with files directly below `prefix`, sorted."""
    below = (file[len(prefix) :].partition("/") for file in files if file.startswith(prefix))
    return sorted({name for name, slash, _ in below if slash})


def _inner(files: Sequence[str], prefix: str) -> str:
    """`prefix`, or the folder of the same split that is the only one in it."""
    folders = _folders(files, prefix)
    if len(folders) == 1 and split_of_name(folders[0]) == split_of_name(prefix.split("/")[-2]):
        return f"{prefix}{folders[0]}/"
    return prefix
