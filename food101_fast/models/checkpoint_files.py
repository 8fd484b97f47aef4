"""Reads files of weights, without ever running code from them, and finds the state dicts in them.

Files are recognized by their first bytes: names tell little, since `.bin` and `.pth` are used for many formats.
"""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from food101_fast.errors import UserError
from food101_fast.models.locations import WeightsFile
from food101_fast.resources import first_line, machine_advice

# Larger files are mapped into memory: their optimizer state, which may be most of them, is then never read.
_MAPPED_FROM_BYTES = 1 << 26
_DEEPEST = 5
# Tensors there have the names or shapes of weights and are none.
_NOT_WEIGHTS = re.compile(r"optim|sched|scaler|rng", re.IGNORECASE)

# What other formats begin with, from their specifications.
_MAGIC = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes it"),
    (b"GGUF", "a GGUF file of llama.cpp"),
    (b"version https://git-lfs", "a Git LFS pointer and not the file itself (run `git lfs pull` there)"),
    (b"\x1f\x8b", "compressed with gzip (unpack it first)"),
    (b"\x93NUMPY", "a NumPy array"),
)
_WEB_PAGE = re.compile(rb"\s*(<!doctype html|<html)", re.IGNORECASE)
_BY_SUFFIX = {
    ".onnx": "an ONNX model",
    ".msgpack": "Flax weights in msgpack",
    ".pb": "a TensorFlow graph",
    ".json": "JSON, such as the index of weights that are in several files",
}
# Files in the zip archives of other formats.
_IN_ARCHIVES = (
    ("constants.pkl", "a TorchScript archive: load it with torch.jit.load and save its state_dict()"),
    ("serialized_exported_program.json", "a torch.export program: load it and save its state_dict"),
    ("models/model.json", "a torch.export program: load it and save its state_dict"),
    ("model.weights.h5", "a Keras model"),
)
_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save before version 1.6
_GLOBAL = re.compile(r"GLOBAL (\S+)|Unsupported class (\S+)")
_OUTER_NAMES = ("state_dict", "model", "model_state_dict", "net", "network", "module", "weights", "params")


@dataclass(frozen=True, kw_only=True, eq=False)
class StateDict:
    """Named tensors in a file."""

    path: tuple[str, ...]
    """Names of the dicts that contain it, from the outermost one; empty for the file itself."""
    tensors: dict[str, Tensor]


def read_state_dicts(file: WeightsFile) -> list[StateDict]:
    """All state dicts in a file, the outer ones first. Code in the file is never run.

    Raises:
        UserError: the file is damaged, is of another kind, contains no state dict, or can't be read without running
            code. Then a downloaded file that is damaged or of another kind is removed from the cache.
    """
    try:
        document = _read(file)
        found = list(_state_dicts(document, ()))
        if not found:
            raise UserError(f"{file.name} does not contain a state dict; save model.state_dict() into it")
    except _NeedsCodeError as error:
        raise UserError(str(error)) from error
    except UserError:
        if file.is_downloaded:
            file.path.unlink(missing_ok=True)
        raise
    return found


class _NeedsCodeError(Exception):
    """A file can't be read without running code from it."""


def _read(file: WeightsFile) -> object:
    with file.path.open("rb") as stream:
        start = stream.read(512)
    kind = _foreign(file.path, start)
    if kind is not None:
        raise UserError(
            f"{file.name} is {kind}; --weights needs a .safetensors file or one that torch.save has written"
        )
    try:
        is_zip = start.startswith(b"PK")
        if not is_zip and start[4:9] == b"\0\0\0\0{":  # the length of a header below 4 GB, and the header
            return safetensors.torch.load_file(file.path)
        if not is_zip and start.startswith(b"\x80") and not start.startswith(_OLD_TORCH):
            raise _NeedsCodeError(
                f"{file.name} cannot be read without running code from the file, since torch.save did not write it; if "
                "you trust it, load it with pickle and torch.save the state dict"
            )
        if not is_zip and not start.startswith(_OLD_TORCH):
            raise ValueError("unknown format")
        mapped = is_zip and file.path.stat().st_size >= _MAPPED_FROM_BYTES and file.path.suffix != ".safetensors"
        # timm's, torchvision's and many other training scripts keep their arguments beside the weights. A Namespace
        # only gets attributes.
        with torch.serialization.safe_globals([argparse.Namespace]), file.path.open("rb") as stream:
            # torch maps only what it gets by a name, and believes a name that ends with .safetensors.
            source = str(file.path) if mapped else stream
            return torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        found = [one or two for one, two in _GLOBAL.findall(str(error))]
        needs = f"it needs {found[0]}" if found else first_line(error)
        raise _NeedsCodeError(_how_to_convert(file, needs)) from error
    except _NeedsCodeError:
        raise
    except Exception as error:  # each library raises its own kinds, and torch's run over many lines
        advice = machine_advice(error)
        if advice is not None:
            raise UserError(f"the weights in {file.name} cannot be read ({first_line(error)}); {advice}") from error
        raise UserError(
            f"the weights in {file.name} cannot be read ({type(error).__name__}): the file is incomplete, damaged or "
            "not a file of weights; give another one"
        ) from error


def _foreign(path: Path, start: bytes) -> str | None:
    """What a file is, if it is known and has no state dict that could be read."""
    if not start:
        return "empty"
    if _WEB_PAGE.match(start):
        return "a web page and not the file itself (use the link of its download, with /resolve/ and not /blob/)"
    for magic, kind in _MAGIC:
        if start.startswith(magic):
            return kind
    if start[4:8] == b"TFL3":
        return "a TFLite model"
    if start[257:262] == b"ustar":
        return "a tar archive (unpack it, or load it with torch.load and save it again)"
    if start.startswith(b"PK"):
        return _foreign_archive(path)
    return _BY_SUFFIX.get(path.suffix.lower())


def _foreign_archive(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):  # reading it will say more
        return None
    for ending, kind in _IN_ARCHIVES:
        if any(f"/{name}".endswith(f"/{ending}") for name in names):
            return kind
    if names and all(name.endswith(".npy") for name in names):
        return "an archive of NumPy arrays, such as weights of JAX (a library's own name for the weights converts them)"
    return None if any(name.endswith("data.pkl") for name in names) else "a zip archive without weights of torch"


def _how_to_convert(file: WeightsFile, needs: str) -> str:
    """The sentence about a file that torch.save has written and that needs code to be read."""
    new = f"{file.path.stem}-weights.pth"
    return (
        f"the weights in {file.name} cannot be read without running code from the file ({needs}); if you trust it, "
        f"convert it: python -c \"import torch; torch.save(torch.load('{file.path}', 'cpu', weights_only=False)"
        f"{_selection(_pickled(file.path))}, '{new}')\" and give {new} to --weights"
    )


def _selection(content: bytes) -> str:
    """Python that selects the state dict in what a pickle contains, as far as its first bytes and its names tell."""
    if content[2:3] != b"}":  # not a dict: most of these are a whole model
        return "" if content[2:].startswith(b"ccollections\nOrderedDict") else ".state_dict()"
    outer = next((name for name in _OUTER_NAMES if b"X%c\0\0\0%b" % (len(name), name.encode()) in content), None)
    if outer is None:
        return ""
    is_module = b"torch.nn.modules" in content and "state_dict" not in outer
    return f"['{outer}']{'.state_dict()' if is_module else ''}"


def _pickled(path: Path) -> bytes:
    """The pickle in a file, without the tensors' values."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            name = next((name for name in archive.namelist() if name.endswith("data.pkl")), None)
            return archive.read(name) if name is not None else b""
    with path.open("rb") as file:
        return file.read(1 << 20)


def _state_dicts(value: object, path: tuple[str, ...]) -> Iterator[StateDict]:
    if not isinstance(value, Mapping) or len(path) > _DEEPEST:
        return
    tensors = {name: tensor for name, tensor in value.items() if isinstance(name, str) and _is_plain(tensor)}
    if tensors:
        yield StateDict(path=path, tensors=tensors)
    for name, inner in value.items():
        if isinstance(name, str) and not _NOT_WEIGHTS.search(name):
            yield from _state_dicts(inner, (*path, name))


def _is_plain(value: object) -> bool:
    """Whether this is a tensor with values of its own, that are numbers."""
    if not isinstance(value, Tensor):
        return False
    return value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
