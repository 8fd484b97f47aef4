"""What is measured: flags of the bench commands."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt

from food101_fast.compute.device import Device
from food101_fast.errors import UserError
from food101_fast.limits import check_limits
from food101_fast.loader import LoaderOptions
from food101_fast.models import inputs_of
from food101_fast.runs.recipe import Recipe
from food101_fast.runs.run import read_run
from food101_fast.shards import ShardSet
from food101_fast.transforms import InputSpec


def check_folder(path: Path | None, flag: str) -> None:
    """Check that a file can be written to this path.

    Raises:
        UserError: the path is a folder, or its folder does not exist.
    """
    if path is not None and path.is_dir():
        raise UserError(f"{path} is a folder; name a file for {flag}")
    if path is not None and not path.absolute().parent.is_dir():
        raise UserError(f"there is no folder {path.absolute().parent} for {flag}; create it first")


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """Measure each stage of training alone and all together, and name the one that bounds it."""

    shards: str | None = None
    """Folder or URL of shards that prepare wrote or `shards index` indexed; with --run, the run's shards by default."""
    overlay: tuple[str, ...] = ()
    """Overlays of the shards, in the order in which they apply; with --run, the run's by default."""
    run: Path | None = None
    """Folder of a run: measure its recipe on its shards. --model and other fields of a recipe override it."""
    json: Path | None = None
    """File for the results as JSON, with commit, versions, hardware and load."""
    model: str | None = None
    """Model of torchvision or timm (timm/NAME) to train, with random weights; mobilenet_v2 by default."""
    image_size: int | None = None
    """Height and width of the model's input, in pixels; 160 by default."""
    batch_size: int | None = None
    """Images in one step; 64 by default."""
    preset: str | None = None
    """Augmentation; baseline by default."""
    mixup_alpha: float | None = None
    """Strength of MixUp, as in train; what --preset has by default."""
    cutmix_alpha: float | None = None
    """Strength of CutMix, as in train; what --preset has by default."""
    erasing: float | None = None
    """Probability of erasing, as in train; what --preset has by default."""
    amp: Literal["auto", "fp16", "bf16", "off"] | None = None
    """Mixed precision, as in train; auto by default."""
    compile: Literal["auto", "on", "off"] | None = None
    """torch.compile, as in train; auto by default."""
    window: int | None = None
    """Samples that are shuffled with each other; all by default."""
    device: Device = "auto"
    """Device to compute on; auto takes CUDA if there is a CUDA device."""
    loading: LoaderOptions = field(default_factory=LoaderOptions)
    """How images are loaded."""
    budget: Annotated[float, Gt(0)] = 70
    """Seconds for the whole measurement (in a sweep, for each value). A slow machine then does fewer or shorter
    repetitions, and a CPU also takes smaller batches; a higher budget measures more."""
    seconds: Annotated[float, Gt(0)] = 0.3
    """Longest duration of one repetition, in seconds; one batch is always measured."""
    repetitions: Annotated[int, Ge(1)] = 7
    """Most repetitions of each stage, after a warm-up that is not counted; `bench compare` needs at least 6."""

    def __post_init__(self) -> None:
        if self.shards is None and self.run is None:
            raise UserError("bench needs --shards, or --run with the folder of a run")
        check_limits(self)
        check_folder(self.json, "--json")

    def opened(self) -> ShardSet:
        """The shards that are read.

        Raises:
            UserError: they or the run can't be read.
        """
        if self.run is None:
            assert self.shards is not None
            return ShardSet.open(self.shards, overlay=self.overlay)
        run = read_run(self.run)
        own = run.overlays if self.shards is None else ()
        return ShardSet.open(self.shards or run.shards, overlay=self.overlay or own)

    def chosen(self) -> Recipe:
        """The recipe that is measured.

        Raises:
            UserError: the run can't be read, or the recipe is impossible.
        """
        recipe = Recipe(batch_size=64) if self.run is None else read_run(self.run).recipe
        augmentation = ("preset", "mixup_alpha", "cutmix_alpha", "erasing")
        names = ("model", "image_size", "batch_size", *augmentation, "amp", "compile", "window")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return replace(recipe, weights="none", **given)

    def inputs(self, recipe: Recipe) -> InputSpec:
        """The images that the measured recipe's backbone expects; those of the run, if it is the run's backbone.

        Raises:
            UserError: the run can't be read, or what its backbone expects can't be downloaded.
        """
        if self.run is not None and self.model is None:
            return read_run(self.run).inputs
        return inputs_of(recipe.model, recipe.weights)
