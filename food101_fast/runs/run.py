"""`recipe.json` of a run: what was trained, on which data, and with which versions; and the model of a checkpoint."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import orjson
import torch
import torchvision
from torch import nn

from food101_fast import __version__
from food101_fast.compute.device import Machine, machine
from food101_fast.documents import parse
from food101_fast.errors import UserError
from food101_fast.images import Decode, Fit, Rules
from food101_fast.models import Backbone, build_model, load_weights
from food101_fast.models.libraries import library_of
from food101_fast.runs.checkpoint import has_any_checkpoint, load_checkpoint
from food101_fast.runs.folder import RunFolder
from food101_fast.runs.recipe import Recipe
from food101_fast.shards import ShardSet
from food101_fast.shards.protocol import SplitOrigin, protocol, split_origin
from food101_fast.storage import LocalFolder, write_atomically, writing
from food101_fast.storage.locks import FileLock
from food101_fast.transforms import EvalSpec, InputSpec
from food101_fast.transforms.normalize import IMAGENET


@dataclass(frozen=True, kw_only=True)
class RunMachine(Machine):
    """The machine that a run started on."""

    ranks: int
    """Processes that trained together, one for each GPU."""


@dataclass(frozen=True, kw_only=True)
class TeacherRun:
    """A run that was a teacher of this one."""

    run: str
    """Its folder, as given to `--teacher`."""
    weights: str
    """XXH3-64 of the weights of its best checkpoint, 16 hexadecimal digits."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What was trained, on what: the content of a run's `recipe.json`."""

    recipe: Recipe
    classes: tuple[str, ...]
    stored_size: int
    """Height and width of the images in the shards, in pixels."""
    fit: Fit
    """How images were made square: crop or squash."""
    decode: Decode = "scaled"
    """Whether JPEGs were decoded at a reduced DCT scale for the shards."""
    inputs: InputSpec = IMAGENET
    """The images that the backbone expects: mean, standard deviation, interpolation and native size."""
    architecture: str = ""
    """Name of the backbone that needs no network connection, where the recipe's is one on a hub; else empty."""
    shards: str
    """Folder of the shards, an absolute path or a URL."""
    overlays: tuple[str, ...] = ()
    """Overlays of the shards that were applied, absolute paths or URLs, in their order."""
    overlay_digests: tuple[str, ...] = ()
    """Their digests."""
    data: str
    """Digest of the shards' manifest, with the overlays applied."""
    source: str
    """Source of the images, as given to `prepare --source`."""
    protocol: str = ""
    """Where the splits come from, in words; empty in runs from before it was kept."""
    origin: SplitOrigin | None = None
    """Where the images of the splits come from; None in runs from before it was kept."""
    class_counts: dict[str, tuple[int, ...]]
    """Images of each class in each split."""
    versions: dict[str, str]
    """Versions of food101_fast, Python, torch and torchvision."""
    teachers: tuple[TeacherRun, ...] = ()
    """Runs that it is distilled from."""
    machine: RunMachine

    @property
    def rules(self) -> Rules:
        """How an image file becomes an image as in the shards."""
        return Rules(size=self.stored_size, fit=self.fit, decode=self.decode)

    def open_shards(self, override: str | Path | None = None, overlays: Sequence[str] = ()) -> ShardSet:
        """The shards that the run was trained on.

        Args:
            override: their folder or URL, if they moved since.
            overlays: locations of the run's overlays, if they moved since.

        Raises:
            UserError: they can't be opened, or another data set is there.
        """
        location = self.shards if override is None else override
        try:
            shards = ShardSet.open(location)
        except UserError as error:
            if override is not None:
                raise
            moved = "the shards are not where the run was trained from"
            raise UserError(f"{moved} ({error}); give their folder or URL to --shards") from error
        shards = shards.overlaid(overlays or self.overlays)
        if shards.manifest.digest == self.data:
            return shards
        if shards.manifest.overlays != self.overlay_digests:
            raise UserError(f"the overlays are not {self.named_overlays}; give those to --overlay")
        if (appended := self.appended_since(shards)) is not None:
            raise UserError(appended)
        if override is not None:
            raise UserError(f"the run was trained on other shards than {override}; give the right ones to --shards")
        raise UserError(f"{self.shards} now has other shards; give the folder or URL of the run's own to --shards")

    @property
    def named_overlays(self) -> str:
        """The run's overlays in a sentence."""
        return f"those that the run was trained with ({', '.join(self.overlays) or 'none'}), or have changed since"

    def appended_since(self, shards: ShardSet) -> str | None:
        """What to do if images were appended to the run's shards after it was trained; None if these are others."""
        if all(earlier.digest != self.data for earlier in shards.manifest.lineage):
            return None
        return (
            f"images were appended to {shards.location} after the run was trained; train a new run on all images, or "
            "give a copy of the shards from before to --shards"
        )

    @property
    def main_split(self) -> str:
        """The split whose results are the run's: test, or val in shards without test."""
        return "test" if "test" in self.class_counts else "val"

    def check_split(self, split: str) -> None:
        """Check that the run's shards have a split.

        Raises:
            UserError: they don't.
        """
        if split not in self.class_counts:
            names = ", ".join(self.class_counts)
            raise UserError(f"its shards have no split {split} (they have {names}); give --split {self.main_split}")

    @property
    def backbone(self) -> Backbone:
        """The network without weights and head; it can be built without a network connection."""
        return replace(self.recipe.backbone, name=self.architecture or self.recipe.model)

    @property
    def eval_spec(self) -> EvalSpec:
        """How a stored image is resized and cropped for evaluation."""
        return EvalSpec.of(self.recipe.image_size, self.stored_size, self.inputs)


def new_run(
    folder: Path,
    recipe: Recipe,
    shards: ShardSet,
    device: torch.device,
    ranks: int,
    inputs: InputSpec = IMAGENET,
) -> Run:
    """Describe a new run; nothing is written yet. A run that ended before its first checkpoint may be replaced.

    Raises:
        UserError: the folder is not empty, or the backbone's configuration can't be downloaded.
    """
    check_new(folder)
    architecture = library_of(recipe.model).stored_name(recipe.model)
    return Run(
        recipe=recipe,
        classes=shards.classes,
        stored_size=shards.manifest.image_size,
        fit=shards.manifest.fit,
        decode=shards.manifest.decode,
        inputs=inputs,
        architecture="" if architecture == recipe.model else architecture,
        shards=shards.location,
        overlays=shards.overlays,
        overlay_digests=shards.manifest.overlays,
        data=shards.manifest.digest,
        source=shards.manifest.source,
        protocol=protocol(shards.manifest),
        origin=split_origin(shards.manifest),
        class_counts={name: split.class_counts for name, split in shards.manifest.splits.items()},
        versions=versions(),
        machine=RunMachine(**vars(machine(device)), ranks=ranks),
    )


def check_new(folder: Path) -> None:
    """Check that a new run can be written to this folder.

    Raises:
        UserError: it is not empty.
    """
    if not _is_free(folder):
        content = (
            "already has a run; continue it with --resume, or" if RunFolder(folder).recipe.exists() else "is not empty;"
        )
        raise UserError(f"{folder} {content} give another --run")


def is_begun(folder: Path) -> bool:
    """Whether a folder has a run to resume; otherwise a new run can be written to it.

    Raises:
        UserError: it is not empty, and has no run.
    """
    if _is_free(folder):
        return False
    if not RunFolder(folder).recipe.exists():
        check_new(folder)
    return True


def _is_free(folder: Path) -> bool:
    """Whether there is no such folder, or it is empty, or has a run that ended before its first checkpoint."""
    if not folder.is_dir():
        return not folder.exists()
    expected = RunFolder(folder).is_before_first_checkpoint
    return all(expected(path.name) for path in folder.iterdir()) and not has_any_checkpoint(folder)


@contextlib.contextmanager
def locked_run(folder: Path) -> Iterator[None]:
    """Lock a run's folder against other processes that train into it; the folder is made if needed.

    Raises:
        UserError: another process has locked it, or it can't be written to.
    """
    with contextlib.ExitStack() as exits:
        with writing(folder, "or give another --run"):
            folder.mkdir(parents=True, exist_ok=True)
            exits.enter_context(LocalFolder(folder).lock(RunFolder(folder).lock.name))
        yield


def is_trained_now(folder: Path) -> bool:
    """Whether another process trains into a run's folder."""
    path = RunFolder(folder).lock
    if not any(folder.glob(f"{path.name}*")):
        return False
    lock = FileLock(path, folder)
    if not lock.acquire():
        return True
    lock.release()
    return False


def versions() -> dict[str, str]:
    """Versions of the software that determines a run's numbers."""
    return {
        "food101_fast": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }


def write_run(folder: Path, run: Run) -> None:
    """Make the folder and put `recipe.json` into it."""
    path = RunFolder(folder).recipe
    with writing(path, "or give another --run"):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, orjson.dumps(asdict(run), option=orjson.OPT_INDENT_2))


def read_run(folder: Path) -> Run:
    """Read `recipe.json`.

    Raises:
        UserError: the folder has no run, or the file is damaged or was written by another version.
    """
    path = RunFolder(folder).recipe
    if not path.is_file():
        why = f"it has no {path.name}" if folder.exists() else "there is no such folder"
        raise UserError(f"{folder} has no run ({why}); make one with `python -m food101_fast.train`")
    return read_description(path)


def read_description(path: Path) -> Run:
    """Read a `recipe.json`, wherever it is and whatever its name.

    Raises:
        UserError: the file is damaged, or was written by another version.
    """
    content = path.read_bytes()
    run = parse(content, Run, where=str(path), advice="train again into another folder")
    document = orjson.loads(content)
    unknown = sorted(_unknown(document, Run) | _unknown(document["recipe"], Recipe))
    if unknown:
        raise UserError(
            f"{path} has fields that this version of food101_fast does not know ({', '.join(unknown)}); use the "
            f"version that wrote it ({run.versions.get('food101_fast', 'unknown')}), or train again into another folder"
        )
    return run


def _unknown(document: dict[str, object], kind: type[Run | Recipe]) -> set[str]:
    return document.keys() - {field.name for field in fields(kind)}


def load_model(folder: Path, run: Run, checkpoint: str = "best") -> nn.Module:
    """The model of a run's checkpoint, in evaluation mode, on the CPU.

    Raises:
        UserError: there is no such checkpoint, or it is damaged.
    """
    weights, _ = load_checkpoint(folder, checkpoint)
    model = build_model(run.backbone, "none", len(run.classes))
    load_weights(model, weights)
    return model.eval()
