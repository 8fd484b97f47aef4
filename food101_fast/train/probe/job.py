"""A whole probe: features, the linear classifier, nearest neighbors, and a run like any other with the best model."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from food101_fast.compute.precision import Precision, inference_precision
from food101_fast.errors import UserError
from food101_fast.loader import LoaderOptions, ShardLoader
from food101_fast.loader.pipeline import Counters
from food101_fast.models import check_sizes
from food101_fast.runs.checkpoint import load_checkpoint, save_checkpoint
from food101_fast.runs.probe import FeatureFile, ProbeResult, TriedDecay, read_probe, write_probe
from food101_fast.runs.results import EpochRow, Timing, read_metrics
from food101_fast.runs.resumable import check_resumable
from food101_fast.runs.run import Run, locked_run, new_run, read_run, write_run
from food101_fast.shards import ShardSet
from food101_fast.train.context import Hooks, TrainContext
from food101_fast.train.logs import MetricsLog, peak_memory
from food101_fast.train.probe.extractor import FeatureExtractor
from food101_fast.train.probe.features import FeatureKey, features_of
from food101_fast.train.probe.linear import Labeled, Linear, LogisticRegression, Scores, scores
from food101_fast.train.probe.neighbors import NEIGHBORS, knn_top1
from food101_fast.train.signals import StopRequest
from food101_fast.train.start import enlarged
from food101_fast.train.state import STATE_VERSION, Progress

WEIGHT_DECAYS = tuple(float(f"{10 ** (exponent / 2):.3g}") for exponent in range(2, -11, -1))
"""What is tried, from 10 to 1e-5."""
_MOST_WORSE = 4  # weight decays in a row that are no better than the best before them end the search


def probed(
    context: TrainContext,
    shards: ShardSet,
    folder: Path,
    *,
    resume: bool,
    loading: LoaderOptions,
    hooks: Hooks,
    stop: StopRequest,
) -> list[EpochRow]:
    """Probe a backbone and write a run whose model is the backbone with the linear classifier as its head.

    Args:
        context: of the run.
        shards: the data.
        folder: of the run; new, unless `resume`.
        resume: whether `folder` has a run, which is then finished.
        loading: how the loaders work.
        hooks: with the function that makes the network.
        stop: knows whether a signal asks to stop.

    Returns:
        One row, as in `metrics.jsonl`.

    Raises:
        UserError: the folder, the network, the shards or the cache can't be used, or there are several ranks.
        KeyboardInterrupt: a signal asked to stop; no run is written, and features that were finished are kept.
    """
    recipe, start = context.recipe, time.perf_counter()
    if context.world.size > 1:
        raise UserError(
            f"a probe computes in one process, and there are {context.world.size} ranks; start it without torchrun"
        )
    if resume:
        return _finished(context, shards, folder)
    torch.manual_seed(recipe.seed)
    model = hooks.build_model(recipe.backbone, recipe.weights, context.classes)
    run = new_run(folder, recipe, shards, context.device, context.world.size, context.inputs)
    check_sizes(recipe.backbone, model, {recipe.image_size}, native=context.inputs.size)
    backbone = FeatureExtractor(recipe.model, model, recipe.image_size)
    backbone.to(context.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    precision = inference_precision(recipe.amp, context.device)
    context.say(_title(context, backbone, precision))
    if recipe.image_size > context.stored_size:
        context.warn(enlarged(context))
    with _locked(folder):
        probe = _Probe(context, shards, run, backbone, precision, loading, stop)
        linear, result, row = probe.compute(start)
        _write(folder, run, backbone, linear, result, row)
    context.say(summary(result))
    return [row]


class _Probe:
    """What a probe computes; nothing here writes into the run's folder.

    The arguments are those of `probed`, and what it has made of them.
    """

    def __init__(
        self,
        context: TrainContext,
        shards: ShardSet,
        run: Run,
        backbone: FeatureExtractor,
        precision: Precision,
        loading: LoaderOptions,
        stop: StopRequest,
    ) -> None:
        self._context = context
        self._shards = shards
        self._run = run
        self._backbone = backbone
        self._precision = precision
        self._loading = loading
        self._stop = stop
        self._counters = Counters()

    def compute(self, start: float) -> tuple[Linear, ProbeResult, EpochRow]:
        """The best classifier, all that was found, and the row of the run.

        Args:
            start: of the probe, by `time.perf_counter`.
        """
        recipe, device = self._context.recipe, self._context.device
        train, train_file = self._features("train")
        seconds = 0.0 if train_file.reused else train_file.seconds
        val, val_file = self._features("val")
        validating = 0.0 if val_file.reused else val_file.seconds
        fitting = time.perf_counter()
        linear, best, tried = self._fitted(train, val)
        on_train, on_val = scores(linear, train), scores(linear, val)
        seconds += time.perf_counter() - fitting
        voting = time.perf_counter()
        knn = knn_top1(train, val, self._context.classes)
        validating += time.perf_counter() - voting
        result = ProbeResult(
            model=recipe.model,
            weights=recipe.weights,
            features=(train_file, val_file),
            tried=tuple(tried),
            best=best,
            knn_top1=knn,
            knn_neighbors=min(NEIGHBORS, len(train.labels)),
            seconds=time.perf_counter() - start,
        )
        timing = _timing(seconds, validating, len(train.labels), self._counters, peak_memory(device))
        steps = sum(one.iterations for one in tried)
        return linear, result, _row(recipe.image_size, steps, on_train, on_val, timing)

    def _features(self, split: str) -> tuple[Labeled, FeatureFile]:
        """Features and labels of a split."""
        context, run = self._context, self._run
        key = FeatureKey(
            data=run.data,
            split=split,
            model=run.recipe.model,
            weights=self._backbone.digest,
            spec=run.eval_spec,
            precision=self._precision.name,
        )
        made: list[ShardLoader] = []

        def loader() -> ShardLoader:
            batch_size = context.recipe.batch_size
            options = self._loading.arguments()
            made.append(
                ShardLoader(
                    self._shards, split=split, batch_size=batch_size, device=context.device, shuffle=False,
                    drop_last=False, **options,
                )
            )  # fmt: skip
            return made[-1]

        array, file = features_of(key, self._backbone, loader, self._precision, self._stop_if_asked)
        if made and split == "train":
            self._counters = made[0].counters
        context.say(_features_line(file))
        return self._labeled(array, split), file

    def _labeled(self, features: NDArray[np.float32], split: str) -> Labeled:
        """Features on the device if they fit twice into its free memory, else on the host."""
        device = self._context.device
        tensor = torch.from_numpy(features)
        if device.type == "cuda" and 2 * features.nbytes < torch.cuda.mem_get_info(device)[0]:
            tensor = tensor.to(device)
        labels = torch.from_numpy(self._shards.split(split).labels.astype(np.int64))
        return Labeled(features=tensor, labels=labels.to(device))

    def _fitted(self, train: Labeled, val: Labeled) -> tuple[Linear, TriedDecay, list[TriedDecay]]:
        """The classifier with the best weight decay, that decay, and all that were tried."""
        has_bias = self._backbone.head.bias is not None
        regression = LogisticRegression(train, self._context.classes, bias=has_bias)
        tried: list[TriedDecay] = []
        best: TriedDecay | None = None
        kept: Linear | None = None
        for decay in WEIGHT_DECAYS:
            linear, iterations = regression.fit(decay, self._stop_if_asked)
            on_val = scores(linear, val)
            one = TriedDecay(
                weight_decay=decay,
                iterations=iterations,
                train_loss=scores(linear, train).loss,
                val_loss=on_val.loss,
                val_top1=on_val.top1,
            )
            tried.append(one)
            if best is None or (one.val_top1, -one.val_loss) > (best.val_top1, -best.val_loss):
                best, kept = one, linear
            elif len(tried) - tried.index(best) > _MOST_WORSE:
                break
        assert best is not None
        assert kept is not None
        return kept, best, tried

    def _stop_if_asked(self) -> None:
        if self._stop.signal is not None:
            raise KeyboardInterrupt(
                f"{self._stop.signal} ended the probe of {self._run.recipe.model}; it has written no run, and features "
                "that were finished are kept for the same command"
            )


def _finished(context: TrainContext, shards: ShardSet, folder: Path) -> list[EpochRow]:
    """The row of a probe that was written, which is always finished.

    Raises:
        UserError: the folder has another run, or a damaged one.
    """
    check_resumable(folder, read_run(folder), context.recipe, shards)
    load_checkpoint(folder, "last")
    context.say(f"this run is finished: {summary(read_probe(folder))}")
    return read_metrics(folder)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """A context in which the run's folder is locked; if it raises, a folder that did not exist is removed."""
    existed = folder.exists()
    try:
        with locked_run(folder):
            yield
    except BaseException:
        if not existed:
            with contextlib.suppress(OSError):  # it is not empty: the disk was full in the middle of a checkpoint
                folder.rmdir()
        raise


def _write(
    folder: Path, run: Run, backbone: FeatureExtractor, linear: Linear, result: ProbeResult, row: EpochRow
) -> None:
    """Write the run; the checkpoint comes last, and without one `check_new` takes the folder for a new one."""
    model = backbone.with_head(linear.weight, linear.bias)
    progress = Progress(epoch=row.epoch, step=row.step, best_top1=row.val_top1)
    state = {"version": STATE_VERSION, "recipe": asdict(run.recipe), "progress": vars(progress)}
    write_run(folder, run)
    write_probe(folder, result)
    log: Callable[[], None] = lambda: MetricsLog(folder, 0).append(row)  # noqa: E731
    save_checkpoint(folder, "last", model.state_dict(), state, also=["best"], log=log)


def _timing(seconds: float, validating: float, images: int, counters: Counters, memory: int) -> Timing:
    computing = max(seconds - counters.consumer_wait_seconds, 1e-9)
    return Timing(
        seconds=seconds,
        images=images,
        images_per_second=images / seconds,
        compute_images_per_second=images / computing,
        wait_share=counters.consumer_wait_seconds / seconds,
        compile_seconds=0.0,
        loader=counters,
        validation_seconds=validating,
        peak_memory_bytes=memory,
    )


def _row(image_size: int, steps: int, on_train: Scores, on_val: Scores, timing: Timing) -> EpochRow:
    """The only row of a probe's metrics. Its steps are iterations of L-BFGS, which has no learning rate."""
    return EpochRow(
        epoch=1,
        step=steps,
        image_size=image_size,
        learning_rate=0.0,
        train_loss=on_train.loss,
        train_top1=on_train.top1,
        skipped_steps=0,
        val_loss=on_val.loss,
        val_top1=on_val.top1,
        val_top5=on_val.top5,
        timing=timing,
    )


def _title(context: TrainContext, backbone: FeatureExtractor, precision: Precision) -> str:
    """Two lines that say what is probed, and where."""
    recipe = context.recipe
    weights = sum(parameter.numel() for parameter in backbone.parameters()) / 1e6
    start = "random weights" if recipe.weights == "none" else f"weights {recipe.weights}"
    return (
        f"{recipe.model} ({weights:.1f} M parameters, {start}) on {context.device}, {precision.name}\n"
        f"{recipe.image_size} px, linear probe of {backbone.size:,} features"
    )


def _features_line(file: FeatureFile) -> str:
    """What a user should know of the features of a split."""
    size = f"{file.bytes / 1e6:,.1f} MB"
    if file.reused:
        return f"{file.split}: features of {file.samples:,} images reused from {file.path} ({size})"
    return (
        f"{file.split}: features of {file.samples:,} images in {file.seconds:,.1f} s "
        f"({file.images_per_second:,.0f} images/s), kept in {file.path} ({size})"
    )


def summary(result: ProbeResult) -> str:
    """What a probe found, in one line."""
    best = result.best
    return (
        f"linear classifier: val loss {best.val_loss:.3f}, top-1 {best.val_top1:.4f} with weight decay "
        f"{best.weight_decay:g}, the best of {len(result.tried)}; {result.knn_neighbors} nearest neighbors: top-1 "
        f"{result.knn_top1:.4f}"
    )
