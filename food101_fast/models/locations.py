"""From what a user gave as `--weights` to a file on this disk: a path, a folder with a file of weights, or a URL.

A URL is downloaded once, into the folder `weights` of the cache. The file gets its name when it is complete and its
hash is right, so that several processes may download the same one without a lock.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import orjson
import xxhash

from food101_fast.errors import UserError
from food101_fast.progress import bar
from food101_fast.resources import first_line
from food101_fast.shards.cache import cache_settings, writing_to_cache
from food101_fast.storage import TEMPORARY_SUFFIX, exact, file_hash

SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar")
"""Names of files that are read; `.tar` ends those of old torch checkpoints, `.pth.tar`."""
FOREIGN_SUFFIXES = (
    ".onnx", ".tflite", ".gguf", ".h5", ".hdf5", ".keras", ".msgpack", ".npz", ".npy", ".pkl", ".pickle", ".pb",
    ".pt2", ".ot", ".json", ".zip", ".gz",
)  # fmt: skip
"""Names of files that are recognized as something else, and not taken for the name of a library's weights."""

# Where a folder has its weights: a run's, a checkpoint's or an exported folder's, and two of the Hugging Face hub.
_IN_FOLDERS = ("checkpoints/best/model.safetensors", "model.safetensors", "pytorch_model.bin")
# Beside the files of a checkpoint: their XXH3-64 by name.
_HASHES_NAME = "xxh3_64.json"
_EXPLICIT_HASH = re.compile(r"(?P<location>.+)#sha256=(?P<hash>.*)", re.DOTALL)
# As torch.hub names its files; its own check_hash takes the same for a hash.
_HASH_IN_NAME = re.compile(r"-(?P<hash>[0-9a-f]{8,64})\.")
_DATE = re.compile(r"(19|20)\d{6}")
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """A file on this disk that a user's `--weights` leads to."""

    path: Path
    name: str
    """For errors: as the user wrote it, or where it is in the folder that the user named."""
    is_downloaded: bool = False
    """Whether it is in the cache, and can be downloaded again."""


def is_location(weights: str) -> bool:
    """Whether this is a path or a URL, and not the name of a library's weights."""
    text = weights.partition("#sha256=")[0]
    path = Path(exact(text))
    suffixes = SUFFIXES + FOREIGN_SUFFIXES
    if "://" in text or text.startswith("~") or os.sep in text or path.suffix.lower() in suffixes:
        return True
    return path.is_file() or (path.is_dir() and _in_folder(path) is not None)


def check_weights(weights: str) -> None:
    """Check what can be known at once about `--weights`: whether a file on the disk exists and is not damaged.

    Raises:
        UserError: it is not.
    """
    if weights != "none" and is_location(weights) and not _is_remote(weights):
        find_weights(weights)


def _is_remote(location: str) -> bool:
    return "://" in location and not location.startswith(("file://", "local://"))


def find_weights(weights: str) -> WeightsFile:
    """The file that a path or URL leads to, downloaded if needed; hashes are checked where they are given.

    Args:
        weights: a path (`~` is the home folder) of a file, or of a folder such as a run's; or a URL that fsspec knows.
            `#sha256=HEX` at its end gives the hash, or its first 8 or more digits.

    Raises:
        UserError: there is no such file, it can't be downloaded, or its hash is another one.
    """
    location, digest = _with_hash(weights)
    if _is_remote(location):
        return _downloaded(location, digest)
    path = Path(os.path.expanduser(exact(location.removeprefix("file://").removeprefix("local://"))))
    name = location
    if path.is_dir():
        inside = _in_folder(path)
        if inside is None:
            raise UserError(
                f"the folder {location} has no {' or '.join(_IN_FOLDERS)}; give the path of a file to --weights"
            )
        path, name = path / inside, f"{location.rstrip('/')}/{inside}"
    if not path.is_file():
        raise UserError(
            f"there is no file of weights {name}; give a path that exists, a URL, a name of the library's weights, or "
            "none"
        )
    if digest and not _has_hash(path, digest):
        raise UserError(f"{name} does not have the SHA-256 {digest}: it is damaged or another file; get it again")
    _check_beside(path, name)
    return WeightsFile(path=path, name=name)


def _with_hash(weights: str) -> tuple[str, str]:
    """A location, and the hash that its user gave; `` without one."""
    found = _EXPLICIT_HASH.fullmatch(weights)
    if found is None:
        return weights, ""
    digest = found["hash"].lower()
    if not re.fullmatch(r"[0-9a-f]{8,64}", digest):
        raise UserError(f"--weights {weights} should end with 8 to 64 hexadecimal digits after #sha256=; correct them")
    return found["location"], digest


def _in_folder(path: Path) -> str | None:
    return next((name for name in _IN_FOLDERS if (path / name).is_file()), None)


def _check_beside(path: Path, name: str) -> None:
    """Compare a file of a run's checkpoint with its hash."""
    hashes = path.with_name(_HASHES_NAME)
    if not hashes.is_file():
        return
    try:
        expected = dict(orjson.loads(hashes.read_bytes())).get(path.name)
    except ValueError:  # a file of another program
        return
    if isinstance(expected, str) and expected != file_hash(path):
        raise UserError(
            f"{name} is damaged: its bytes are not those that were written; give another checkpoint to --weights"
        )


def _has_hash(path: Path, digest: str) -> bool:
    return file_hash(path, hashlib.sha256).startswith(digest)


def _downloaded(url: str, digest: str) -> WeightsFile:
    """A file behind a URL, from the cache if it was downloaded before."""
    name = PurePosixPath(url.partition("?")[0]).name
    expected = digest or _hash_in(name)
    folder = cache_settings(None, None).directory / "weights"
    path = folder / f"{xxhash.xxh3_64_hexdigest(url.encode())}-{re.sub(r'[^A-Za-z0-9._-]', '_', name)[-100:]}"
    if not path.is_file() or (expected and not _has_hash(path, expected)):
        with writing_to_cache(folder):
            folder.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
            try:
                _fetch(url, temporary)
                if expected and not _has_hash(temporary, expected):
                    where = "after #sha256=" if digest else "in its name"
                    raise UserError(
                        f"{url} gave a file with another SHA-256 than {expected}, which is {where}; correct the URL, "
                        "or download the file yourself and give its path to --weights"
                    )
                _flush(temporary)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
    return WeightsFile(path=path, name=url, is_downloaded=True)


def _hash_in(name: str) -> str:
    """The first digits of a SHA-256 in a file's name, as in `resnet18-f37072fd.pth`; a date is not one."""
    found = [match["hash"] for match in _HASH_IN_NAME.finditer(name)]
    return found[-1] if found and not _DATE.fullmatch(found[-1]) else ""


def _fetch(url: str, path: Path) -> None:
    """Download a URL into a file.

    Raises:
        UserError: it can't be downloaded.
        OSError: the disk fails.
    """
    import fsspec  # here, since it takes longer to import than all the rest of a command that downloads nothing

    show: Callable[..., object] = bar
    callback = fsspec.callbacks.TqdmCallback(
        tqdm_kwargs={"desc": "weights", "unit": "B", "unit_scale": True, "leave": False, "only_live": True},
        tqdm_cls=show,
    )
    try:
        files, remote = fsspec.core.url_to_fs(url)
        with callback:
            files.get_file(remote, str(path), callback=callback)
    except FileNotFoundError as error:
        raise UserError(f"there is no file of weights at {url}; correct the URL") from error
    except ImportError as error:
        raise UserError(f"{url} needs another package ({first_line(error)}); install it with pip") from error
    except Exception as error:  # each service's library has exceptions of its own
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            raise
        raise UserError(
            f"the weights at {url} could not be downloaded ({first_line(error)}); check the URL and the connection, "
            "and run again"
        ) from error


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
