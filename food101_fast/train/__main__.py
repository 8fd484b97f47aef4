"""`python -m food101_fast.train`: train a recipe on shards, with any of its fields changed by a flag."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import tyro

from food101_fast.cli import exit_with, parse
from food101_fast.compute.device import Device
from food101_fast.loader import LoaderOptions
from food101_fast.progress import Output, shown
from food101_fast.runs.folder import RunFolder
from food101_fast.runs.recipe import Recipe
from food101_fast.runs.recipe_files import recipe_toml
from food101_fast.runs.results import outcome
from food101_fast.shards import ShardSet
from food101_fast.terminal import wrapped
from food101_fast.train.given import recipe_before_flags, with_native_size
from food101_fast.train.job import Trained, train
from food101_fast.train.logs import summary
from food101_fast.train.lr_range import check_range_test, find_lr, show_range_test
from food101_fast.train.options import RunOptions
from food101_fast.train.probe.compare import Comparison, compare, each_model
from food101_fast.train.replay.command import asks_for_replay
from food101_fast.train.replay.command import main as replay_main
from food101_fast.train.start import check_without_shards

# Titles in the help, and their fields. The others are the commonest, and come first.
GROUPS = {
    "data": ("overlay", "window", "seed"),
    "augmentation": ("preset", "mixup_alpha", "cutmix_alpha", "erasing", "start_size"),
    "model": ("method", "weights", "drop_path", "ema_decay", "sync_batchnorm"),
    "loss": (
        "loss", "label_smoothing", "class_balance", "class_weights", "effective_beta", "logit_tau", "repeat_threshold",
        "bce_threshold", "focal_gamma",
    ),
    "distillation": ("teacher", "teacher_temperature", "teacher_weight"),
    "optimization": (
        "optimizer", "schedule", "lr_gamma", "warmup_epochs", "weight_decay", "momentum", "clip_norm", "accumulate",
        "patience", "layer_decay", "freeze", "freeze_batchnorm", "unfreeze_epochs", "most_skipped", "find_lr",
    ),
    "speed": (
        "auto_batch", "amp", "compile", "compile_mode", "cuda_graph", "tf32", "cudnn_benchmark", "residence", "threads",
        "prefetch", "decode", "verify",
    ),
    "keeping": ("checkpoint_steps", "checkpoint_minutes", "keep", "log_steps"),
    "replay": ("replay",),
    "tracking": ("track", "track_checkpoints", "tensorboard"),
    "output": ("quiet", "json", "print_recipe"),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Train an image classifier on shards. The defaults shown are those of the recipe given by --recipe."""

    shards: str
    """Folder of shards, written by prepare or indexed by `shards index`: a path or a URL."""
    overlay: tuple[str, ...] = ()
    """Overlays of the shards: files that leave images out or give them another label. They apply in this order."""
    run: Path
    """Folder of the run, for its recipe, metrics and checkpoints. Created if it does not exist."""
    recipe: str = "baseline"
    """Recipe to start from: baseline (fine-tunes an ImageNet MobileNetV2), strong (ResNet-50 at 224 px, the most
    accurate), fast (progressive resizing), unfreeze (gradual unfreezing), probe (a linear classifier on features of a
    backbone), demo (a small network, for a CPU), a TOML file (see --print-recipe), or a run's folder or recipe.json."""
    print_recipe: bool = False
    """Print the recipe as a TOML file for --recipe, with flags applied, and train nothing."""
    find_lr: Path | None = None
    """Find a learning rate, and train no run: a range test of 100 steps on a model of its own. It is printed, and a
    picture of the losses is written to this PNG file. Needs no --run, and leaves one as it is."""
    resume: bool = False
    """Resume the run in --run from its last checkpoint; begin it if there is none; do nothing if it has ended. So a job
    script can run one command again and again. Without --recipe it has the recipe stored there; --epochs, --patience,
    --accumulate, --compile, the folders of teachers and the number of ranks may change."""
    auto_batch: bool = False
    """Find the largest power of two that fits into the GPU's memory by trying, and use it instead of --batch-size. A
    resumed run keeps its batch size."""
    replay: int | None = None
    """Do not train: compute this step of the run in --run again, and show its batch, loss and gradients. Steps count
    from 0, as in nonfinite.json. Takes only --shards, --device, --quiet and --json besides."""
    device: Device = "auto"
    """Device to train on. auto is CUDA if there is a GPU, else the CPU."""
    loading: LoaderOptions = field(default_factory=LoaderOptions)
    """How images are loaded; changes no result."""
    saving: RunOptions = field(default_factory=RunOptions)
    """How the run is saved and shown; changes no result."""
    output: Output = field(default_factory=Output)
    """What the command prints."""
    training: Recipe
    """The fields of the recipe: what is computed."""


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`.

    A leading `--` is dropped. torchrun passes it on, and without it torchrun would read `--run` as a flag of its own.
    """
    argv = argv[1:] if argv[:1] == ["--"] else argv
    if asks_for_replay(argv):
        replay_main(argv)
        return
    each = [_parsed(arguments) for arguments in each_model(argv)]
    settings = each[0]
    if settings.print_recipe:
        print(recipe_toml(settings.training), end="")
        return
    if len(each) > 1:
        compare(
            Comparison(
                shards=settings.shards,
                overlay=settings.overlay,
                runs=tuple((one.run, one.training) for one in each),
                resume="--resume" in argv,
                device=settings.device,
                loading=settings.loading,
                output=settings.output,
            )
        )
        return
    rank, ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if settings.find_lr is not None:
        _find_lr(settings, settings.find_lr, ranks)
        return
    check_without_shards(
        settings.run,
        settings.training,
        device=settings.device,
        resume=settings.resume,
        auto_batch=settings.auto_batch,
        options=settings.saving,
        ranks=ranks,
        is_main=rank == 0,
    )
    shards = ShardSet.open(settings.shards, overlay=settings.overlay)
    with shown(settings.output):
        result = train(
            shards,
            settings.run,
            settings.training,
            device=settings.device,
            resume=settings.resume,
            auto_batch=settings.auto_batch,
            loading=settings.loading,
            options=settings.saving,
        )
    if rank == 0:
        _show(settings, result, ranks, evaluated="test" if "test" in shards.manifest.splits else "val")


def _find_lr(settings: TrainSettings, picture: Path, ranks: int) -> None:
    """Do a range test, print what it suggests, and write its picture."""
    check_range_test(picture, resume=settings.resume, ranks=ranks)
    with shown(settings.output):
        found = find_lr(
            ShardSet.open(settings.shards, overlay=settings.overlay),
            settings.training,
            device=settings.device,
            auto_batch=settings.auto_batch,
            loading=settings.loading,
        )
        show_range_test(found, picture, as_json=settings.output.json)


def _show(settings: TrainSettings, result: Trained, ranks: int, *, evaluated: str) -> None:
    """Print what came of the run, and write its report if it has ended."""
    ended = result.stopped_by is None
    report = None
    if ended:
        from food101_fast.report import write_report  # here, since it takes a second to import, on each rank

        page = RunFolder(settings.run).report(evaluated, evaluated)
        report = page if result.nothing_left and page.exists() else write_report(settings.run)
    if settings.output.json:
        document = outcome(
            result.metrics, run=settings.run, steps=result.steps, stopped_by=result.stopped_by, report=report
        )
        print(orjson.dumps(document).decode())
    elif ended:
        print(f"{settings.run}:\n{summary(result.metrics)}")
        print(report)
    if not ended:
        command = "python -m food101_fast.train"
        if ranks > 1:
            local = os.environ.get("LOCAL_WORLD_SIZE", str(ranks))
            command = f"torchrun --nproc-per-node {local} -m food101_fast.train --"
        stream = sys.stderr if settings.output.json else sys.stdout
        sentence = (
            f"stopped by {result.stopped_by} after step {result.steps}, with a checkpoint; resume with: "
            f"{command} --shards {settings.shards} --run {settings.run} --resume"
        )
        print(wrapped(sentence, stream), file=stream)
    elif not (settings.output.quiet or settings.output.json):
        split = "" if evaluated == "test" else f" --split {evaluated}"
        print(f"next: python -m food101_fast.evaluate --run {settings.run}{split}")


def _parsed(argv: Sequence[str]) -> TrainSettings:
    defaults = _defaults(argv)
    argv = with_native_size(argv, defaults.training)
    return parse(TrainSettings, "train", argv, default=defaults, groups=GROUPS)


def _defaults(argv: Sequence[str]) -> TrainSettings:
    """The recipe decides the defaults of all other flags, so --recipe is read before them."""
    name, recipe = recipe_before_flags(argv, "baseline")
    given = {argument.partition("=")[0].replace("_", "-") for argument in argv}
    shards = "" if "--print-recipe" in given else tyro.MISSING
    run = Path() if given & {"--print-recipe", "--find-lr"} else tyro.MISSING
    return TrainSettings(shards=shards, run=run, recipe=name, training=recipe)


if __name__ == "__main__":
    exit_with(main)
