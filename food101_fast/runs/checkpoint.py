"""Checkpoints: weights as safetensors, the rest as plain tensors and numbers. A new one replaces the old one whole."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import safetensors.torch
import torch
from torch import Tensor

from food101_fast.errors import UserError
from food101_fast.runs.folder import RunFolder
from food101_fast.storage import file_hash, writing

WEIGHTS_NAME = "model.safetensors"
TRAINING_NAME = "training.safetensors"
STATE_NAME = "state.pt"
HASHES_NAME = "xxh3_64.json"
_UNFINISHED = ".new"  # ends the name of a checkpoint that is being written
_ADVICE = "replace its folder by another checkpoint of the run, or train the run again"

Weights = dict[str, Tensor]
StateDict = dict[str, Any]
"""Tensors, numbers and strings, in dicts and lists: what `torch.load` reads with `weights_only=True`."""


def has_checkpoint(run: Path, name: str) -> bool:
    """Whether there is a complete checkpoint `name`. A save that was killed between its renames leaves the old one."""
    folder = RunFolder(run).checkpoint(name)
    return folder.exists() or _replaced(folder).exists()


def has_any_checkpoint(run: Path) -> bool:
    """Whether there is a complete checkpoint of any name."""
    return any(path.suffix != _UNFINISHED for path in RunFolder(run).checkpoints.glob("*"))


def _replaced(folder: Path) -> Path:
    """Where the old checkpoint is while a new one takes its name."""
    return folder.with_name(f"{folder.name}.old")


def save_checkpoint(
    run: Path,
    name: str,
    weights: Weights,
    state: StateDict,
    *,
    training: Weights | None = None,
    also: Sequence[str] = (),
    log: Callable[[], object] = lambda: None,
) -> None:
    """Write a checkpoint to the disk once, and then replace the old ones of its names.

    The order makes a kill at any moment harmless: files, log, the names of `also`, and `name` last. So `name` is never
    newer than the log and the other names, and a run that resumes from it writes those again.

    Args:
        run: the run's folder.
        name: `last`, `best` or `epoch-0001`.
        weights: of the model to use; go into `model.safetensors`.
        state: everything else; goes into `state.pt`.
        training: the weights to train on from, if those to use are an average; go into `training.safetensors`.
        also: other names of the same checkpoint: hard links to its files, or copies where the disk has no links.
        log: is called when the files are written and before a name changes.

    Raises:
        UserError: it could not be written. Each name still has its old checkpoint, or has the new one.
    """
    folder = RunFolder(run).checkpoint(name)
    kept = "the one before it is complete" if has_checkpoint(run, name) else "there is none before it"
    with writing(folder, f"then train on with --resume; {kept}"), _removed(folder.parent):
        new = folder.with_name(f"{name}{_UNFINISHED}")
        new.mkdir(parents=True)
        _write_files(new, weights, training, state)
        log()
        for other in also:
            linked = folder.with_name(f"{other}{_UNFINISHED}")
            shutil.copytree(new, linked, copy_function=_link_or_copy)
            _replace(linked, folder.with_name(other))
        _replace(new, folder)


@contextlib.contextmanager
def _removed(checkpoints: Path) -> Iterator[None]:
    """A context before and after which there are no unfinished checkpoints."""

    def remove() -> None:
        for unfinished in checkpoints.glob(f"*{_UNFINISHED}"):
            shutil.rmtree(unfinished, ignore_errors=True)

    remove()
    try:
        yield
    finally:
        remove()


def _write_files(folder: Path, weights: Weights, training: Weights | None, state: StateDict) -> None:
    """Write all files of a checkpoint, and last the hashes of the others."""
    _write(folder / WEIGHTS_NAME, lambda file: file.write(packed(weights)))
    if training is not None:
        _write(folder / TRAINING_NAME, lambda file: file.write(packed(training)))
    try:
        _write(folder / STATE_NAME, lambda file: torch.save(state, file))
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):  # torch replaces it by an error of its own
            raise error.__context__ from None
        raise
    hashes = orjson.dumps({path.name: file_hash(path) for path in folder.iterdir()}, option=orjson.OPT_INDENT_2)
    _write(folder / HASHES_NAME, lambda file: file.write(hashes))


def _replace(new: Path, folder: Path) -> None:
    """Rename a complete checkpoint to its name. Between the two renames the old one is found as `NAME.old`."""
    old = _replaced(folder)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file and flush it to the disk, so that it is there before a rename."""
    with path.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


def packed(weights: Weights) -> bytes:
    """Weights as a safetensors file."""
    # Copies, since a model's BatchNorm statistics share one tensor, which safetensors refuses. Not save_file, since it
    # makes files that only their owner can read.
    return safetensors.torch.save({key: value.detach().cpu().clone().contiguous() for key, value in weights.items()})


def epoch_name(epoch: int) -> str:
    """Name of the checkpoint of an epoch, counted from 1."""
    return f"epoch-{epoch:04d}"


def remove_epochs(run: Path, keep: int) -> None:
    """Remove the checkpoints of epochs, except the newest `keep`."""
    folder = RunFolder(run).checkpoints
    names = sorted({path.stem for path in folder.glob("epoch-*")})
    for name in names[: max(len(names) - keep, 0)]:
        for path in (folder / name, _replaced(folder / name)):
            if path.exists():
                # Renamed first, so that after a kill the rest is not taken for a checkpoint; the next save removes it.
                shutil.rmtree(path.rename(folder / f"{name}{_UNFINISHED}"))


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        with Path(source).open("rb") as file:
            _write(Path(target), lambda copy: shutil.copyfileobj(file, copy))


def checkpoint_names(run: Path) -> list[str]:
    """Names of all complete checkpoints: `best`, `last` and those of epochs."""
    folders = RunFolder(run).checkpoints.glob("*")
    return sorted({folder.stem for folder in folders if folder.suffix != ".new" and has_checkpoint(run, folder.stem)})


def copy_checkpoint(run: Path, name: str, to: Path, new_name: str) -> None:
    """Make a checkpoint of another run from one of this; its files are links where the disk allows that.

    Raises:
        UserError: there is no such checkpoint, or the copy could not be written.
    """
    source, folder = _existing(run, name), RunFolder(to).checkpoint(new_name)
    with writing(folder):
        shutil.copytree(source, folder, copy_function=_link_or_copy)


def peek_state(run: Path, name: str) -> StateDict:
    """The state of a checkpoint, with tensors that are only read when they are used.

    Raises:
        UserError: there is no such checkpoint, or it can't be read. Its hashes are not compared.
    """
    path = _existing(run, name) / STATE_NAME
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True, mmap=True))
    except Exception as error:  # torch raises many kinds
        raise _unreadable(path, error) from error


def load_checkpoint(run: Path, name: str) -> tuple[Weights, StateDict]:
    """Weights to use, and state, of checkpoint `name`, on the CPU.

    Raises:
        UserError: there is no such checkpoint, or it is damaged.
    """
    folder = _existing(run, name)
    weights = _read(folder / WEIGHTS_NAME, safetensors.torch.load_file)
    state = _read(folder / STATE_NAME, lambda path: torch.load(path, map_location="cpu", weights_only=True))
    return dict(weights), dict(state)


def load_training_weights(run: Path, name: str) -> Weights | None:
    """Weights to train on from, if those to use are an average; else None.

    Raises:
        UserError: there is no such checkpoint, or it is damaged.
    """
    path = _existing(run, name) / TRAINING_NAME
    return dict(_read(path, safetensors.torch.load_file)) if path.exists() else None


def weights_hash(run: Path, name: str) -> str:
    """XXH3-64 of the weights to use of checkpoint `name`, as 16 hexadecimal digits; it identifies them in results.

    Raises:
        UserError: there is no such checkpoint, or it is damaged.
    """
    folder = _existing(run, name)
    return str(_read(folder / WEIGHTS_NAME, file_hash))


def _existing(run: Path, name: str) -> Path:
    if Path(name).name != name or not has_checkpoint(run, name):
        others = sorted(path.name for path in RunFolder(run).checkpoints.glob("*") if path.suffix != _UNFINISHED)
        if others:
            advice = (
                "copy one of these to checkpoints/last to resume from it" if name == "last" else "choose one of these"
            )
            raise UserError(f"{run} has no checkpoint {name!r}, only {', '.join(others)}; {advice}")
        first = "it stopped before its first one; train again with --resume, or into another --run"
        raise UserError(f"{run} has no checkpoint {name!r}: {first}")
    folder = RunFolder(run).checkpoint(name)
    return folder if folder.exists() else _replaced(folder)


def _read(path: Path, read: Callable[[Path], Any]) -> Any:
    """Read a file of a checkpoint whose bytes match their hash."""
    try:
        if orjson.loads((path.parent / HASHES_NAME).read_bytes())[path.name] != file_hash(path):
            raise UserError(f"{path} is damaged: its bytes are not those that were written; {_ADVICE}")
        return read(path)
    except UserError:
        raise
    except Exception as error:  # each library raises its own kinds, and torch's run over many lines
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} cannot be read ({type(error).__name__}); {_ADVICE}")
