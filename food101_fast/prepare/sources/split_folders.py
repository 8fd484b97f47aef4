"""Which folders of a source are splits, and which are classes: train/CLASS and val/CLASS, or CLASS alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from food101_fast.errors import UserError
from food101_fast.images import SUFFIXES
from food101_fast.shards.layout import split_of_name

_IMAGE_ENDINGS = tuple(f".{suffix}" for suffix in SUFFIXES)


def is_image_name(file: str) -> bool:
    """Whether a file name has the suffix of an image format."""
    return file.lower().endswith(_IMAGE_ENDINGS)


def find_split_folders(files: Sequence[str], url: str) -> dict[str, str] | None:
    """The split folders of a source.

    Folders are splits if they are named after one, such as `train2017` or `seg_train`, and have the same class folders.
    They may be inside of one outer folder (`data/train/CLASS`), and may have one more inside
    (`seg_train/seg_train/CLASS`). A split folder without class folders is not listed: its images have no labels.

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
    while len(folders := _folders(files, outer)) == 1:
        outer += f"{folders[0]}/"
    named = [name for name in folders if split_of_name(name)]
    others = [name for name in folders if name not in named]
    inner = {name: _inner(files, f"{outer}{name}/") for name in named}
    classes = {name: set(_folders(files, path)) for name, path in inner.items()}
    # Those of train, or else of the first.
    known = next(
        (classes[name] for name in named if split_of_name(name) == "train"), classes[named[0]] if named else set()
    )
    labeled = [name for name in named if classes[name] & known or split_of_name(name) == "train"]
    where = f"{url}/{outer}".rstrip("/")
    if not named or (others and len(labeled) < 2):
        inside = _inside(files, outer)
        _refuse_lone_train(where, labeled, classes, [name for name in others if inside[name]])
        return None
    _refuse_unlike(where, classes, labeled, known)
    pictures = _inside([file for file in files if is_image_name(file)], outer)
    if mixed := [name for name in others if len(pictures.get(name, ())) > 1]:
        raise UserError(
            f"{where} has folders named like splits ({', '.join(named)}) with the same class folders, and also "
            f"{', '.join(mixed)}; move the splits, or the others, to another folder"
        )
    return {inner[name]: name for name in labeled}


def _refuse_lone_train(
    where: str, labeled: Sequence[str], classes: Mapping[str, set[str]], deep: Sequence[str]
) -> None:
    """Refuse a folder train with class folders beside folders that have images only: `deep` are those that do not."""
    for name in labeled:
        if len(classes[name]) > 1 and not deep:
            raise UserError(
                f"{where}/{name} has folders ({', '.join(sorted(classes[name])[:3])}) and the folders beside it have "
                f"none; give --source folder:{where}/{name} if they are the classes, or rename {name} if it is a class"
            )


def _refuse_unlike(where: str, classes: Mapping[str, set[str]], labeled: Sequence[str], known: set[str]) -> None:
    """Refuse split folders whose class folders differ altogether, and fewer than two classes."""
    if unlike := [name for name in classes if name not in labeled and len(classes[name]) > 1]:
        having = "; ".join(f"{name} has {', '.join(sorted(classes[name])[:3])}" for name in (*labeled[:1], *unlike))
        raise UserError(
            f"the folders of {where} are named like splits, but their class folders differ ({having}); rename the "
            "folders, or give a list of the files with --source table:"
        )
    names = ", ".join(classes)
    if not known:
        raise UserError(
            f"the split folders of {where} ({names}) have no class folders; put each class's images into a folder of "
            f"its own there, or, if each has a metadata.csv, give --source hub:{where}"
        )
    if len(known) < 2:
        raise UserError(
            f"the splits of {where} ({names}) have one class folder only, {next(iter(known))}; a classifier needs two "
            "or more classes"
        )


def _folders(files: Sequence[str], prefix: str) -> list[str]:
    """Names of the folders with files directly below `prefix`, sorted."""
    below = (file[len(prefix) :].partition("/") for file in files if file.startswith(prefix))
    return sorted({name for name, slash, _ in below if slash})


def _inside(files: Sequence[str], prefix: str) -> dict[str, set[str]]:
    """Names of the folders with files in each folder directly below `prefix`."""
    found: dict[str, set[str]] = {}
    for file in files:
        if file.startswith(prefix):
            name, slash, rest = file[len(prefix) :].partition("/")
            inner, deeper, _ = rest.partition("/")
            if slash:
                found.setdefault(name, set()).update([inner] if deeper else [])
    return found


def _inner(files: Sequence[str], prefix: str) -> str:
    """`prefix`, or the folder of the same split that is the only one in it."""
    folders = _folders(files, prefix)
    if len(folders) == 1 and split_of_name(folders[0]) == split_of_name(prefix.split("/")[-2]):
        return f"{prefix}{folders[0]}/"
    return prefix
