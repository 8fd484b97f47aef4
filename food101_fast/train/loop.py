"""The training loop: steps that never wait for the device, validation, metrics, checkpoints, early stopping."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import orjson
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from food101_fast.errors import UserError
from food101_fast.loader import Batch, LoaderOptions, ShardLoader
from food101_fast.shards import ShardSet
from food101_fast.train.checkpoint import load_checkpoint, save_checkpoint
from food101_fast.train.model import build_model
from food101_fast.train.recipes import Recipe
from food101_fast.train.run import METRICS_NAME, check_resumable, new_run, read_metrics, read_run, write_run
from food101_fast.transforms import Preset, eval_preset, train_preset

Device = Literal["auto", "cpu", "cuda"]

# Reading the loss waits for the device, so on CUDA the progress bar shows it only every so many steps.
_STEPS_PER_REFRESH = 25


def choose_device(device: Device) -> torch.device:
    """The device that `--device` names; `auto` is CUDA where there is one.

    Raises:
        UserError: CUDA is asked for and there is none.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "--device cuda: torch finds no CUDA device here; use --device cpu, or install a driver and a CUDA build"
        )
    return torch.device(device)


class Precision:
    """Mixed precision as the recipe asks for it: the autocast context and the gradient scaler."""

    def __init__(self, amp: str, device: torch.device) -> None:
        if amp == "auto":
            amp = "fp16" if device.type == "cuda" else "off"
        self._device = device.type
        self._dtype = {"fp16": torch.float16, "bf16": torch.bfloat16, "off": None}[amp]
        # Only fp16 has gradients that can vanish; a disabled scaler passes everything through.
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The context in which a forward pass runs."""
        if self._dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self._device, self._dtype)


class TrainStep:
    """One optimiser step on a batch from the loader, all of it queued on the device without waiting."""

    def __init__(self, recipe: Recipe, model: nn.Module, device: torch.device, num_classes: int | None = None) -> None:
        self.recipe = recipe
        self.precision = Precision(recipe.amp, device)
        self.model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.preset: Preset = train_preset(recipe.preset, recipe.image_size, num_classes=num_classes).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=recipe.learning_rate, fused=device.type == "cuda")
        self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, recipe.lr_gamma)
        compiled = recipe.compile == "on" or (recipe.compile == "auto" and device.type == "cuda")
        self._forward = torch.compile(self.model) if compiled else self.model
        self._augment = torch.compile(self.preset, fullgraph=True) if compiled else self.preset

    def __call__(self, batch: Batch, epoch: int) -> tuple[Tensor, Tensor]:
        """Augment, forward, backward, update.

        Returns:
            The mean loss and the number of correct predictions, both still on the device.
        """
        return self.update(*self.augment(batch, epoch))

    def augment(self, batch: Batch, epoch: int) -> tuple[Tensor, Tensor]:
        """The batch as the model is to see it in `epoch`.

        Returns:
            Normalised floating images (N, 3, h, w); labels int64 (N,), or float32 (N, classes) if they are mixed.
        """
        # As a tensor, so that a compiled graph serves every epoch.
        number = torch.full((), epoch, dtype=torch.int64, device=batch.ids.device)
        return cast(
            tuple[Tensor, Tensor],
            self._augment(batch.images, batch.labels, seed=self.recipe.seed, epoch=number, ids=batch.ids),
        )

    def update(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The step after `augment`. Of mixed labels the one with the largest share counts as correct."""
        scaler = self.precision.scaler
        with self.precision.autocast():
            logits = self._forward(images)
            loss = functional.cross_entropy(logits, labels)
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        scaler.step(self.optimizer)
        scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        classes = labels.argmax(dim=1) if labels.ndim == 2 else labels
        return loss.detach(), (logits.detach().argmax(dim=1) == classes).sum()

    def state_dict(self) -> dict[str, Any]:
        """Everything but the weights that the next step depends on."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.precision.scaler.state_dict(),
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.precision.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["torch_rng"])
        if state["cuda_rng"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda_rng"])


def predict(
    model: nn.Module, loader: ShardLoader, preset: Preset, precision: Precision
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Logits of every batch: yields float32 (N, classes), labels (N,) and ids (N,), on the loader's device."""
    model.eval()
    for batch in loader:
        with torch.inference_mode(), precision.autocast():
            images = preset(batch.images, seed=0, epoch=0, ids=batch.ids)
            logits = model(images)
        yield logits.float(), batch.labels, batch.ids


def validate(model: nn.Module, loader: ShardLoader, preset: Preset, precision: Precision) -> dict[str, float]:
    """Mean loss, top-1 and top-5 over all samples of a loader; the device is waited for once, at the end."""
    sums = torch.zeros(3, dtype=torch.float64, device=loader.device)
    for logits, labels, _ in predict(model, loader, preset, precision):
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        loss = functional.cross_entropy(logits, labels, reduction="sum")
        sums += torch.stack([loss, best[:, 0].sum(), best.sum()]).double()
    loss, top1, top5 = (sums / len(loader.split)).tolist()
    return {"val_loss": loss, "val_top1": top1, "val_top5": top5}


@dataclass
class Progress:
    """How far a run has come; goes into every checkpoint."""

    epoch: int = 0
    """Finished epochs."""
    best_top1: float = -1.0
    epochs_since_best: int = 0


def train(
    shards: ShardSet,
    folder: Path,
    recipe: Recipe,
    *,
    device: Device = "auto",
    resume: bool = False,
    loading: LoaderOptions | None = None,
) -> list[dict[str, Any]]:
    """Train a run to its end, or until validation accuracy stops rising.

    Args:
        shards: the data; the splits `train` and `val` are used.
        folder: the run's folder; new, unless `resume`.
        recipe: what to compute.
        device: where.
        resume: go on after the last finished epoch of the run in `folder`.
        loading: how the loaders work.

    Returns:
        The metrics of every epoch, as they stand in `metrics.jsonl`.

    Raises:
        UserError: the folder, the recipe, the weights or the device can't be used. A new folder is not made then.
    """
    where, classes = choose_device(device), len(shards.classes)
    train_loader, val_loader = _loaders(shards, recipe, where, loading or LoaderOptions())
    torch.manual_seed(recipe.seed)
    if resume:
        run = read_run(folder)
        check_resumable(folder, run, recipe, shards)
        weights, state = load_checkpoint(folder, "last")
        step = TrainStep(recipe, build_model(recipe.model, "none", classes), where, classes)
        step.model.load_state_dict(weights)
        step.load_state_dict(state["step"])
        progress = Progress(**state["progress"])
        metrics = read_metrics(folder)[: progress.epoch]
        write_run(folder, replace(run, recipe=recipe))
    else:
        run, progress = new_run(folder, recipe, shards), Progress()
        metrics = []
        step = TrainStep(recipe, build_model(recipe.model, recipe.weights, classes), where, classes)
        write_run(folder, run)
    preset = eval_preset(recipe.image_size, shards.manifest.image_size)
    while progress.epoch < recipe.epochs and progress.epochs_since_best < recipe.patience:
        row = _train_epoch(step, train_loader, progress.epoch, recipe.epochs)
        row |= validate(step.model, val_loader, preset, step.precision)
        step.scheduler.step()
        progress.epoch += 1
        improved = row["val_top1"] > progress.best_top1
        progress.epochs_since_best = 0 if improved else progress.epochs_since_best + 1
        progress.best_top1 = max(progress.best_top1, row["val_top1"])
        metrics.append(row)
        tqdm.write(
            f"epoch {progress.epoch}: validation loss {row['val_loss']:.3f}, top-1 {row['val_top1']:.4f}, "
            f"top-5 {row['val_top5']:.4f}{' (best so far)' if improved else ''}; {_loading(row['timing'])}"
        )
        _save(folder, step, progress, metrics, improved=improved)
    return metrics


def _loaders(
    shards: ShardSet, recipe: Recipe, device: torch.device, loading: LoaderOptions
) -> tuple[ShardLoader, ShardLoader]:
    common = {"batch_size": recipe.batch_size, "device": device, **loading.arguments()}
    train_loader = ShardLoader(shards, split="train", seed=recipe.seed, window=recipe.window, **common)
    val_loader = ShardLoader(shards, split="val", shuffle=False, drop_last=False, **common)
    for loader in (train_loader, val_loader):
        tqdm.write(f"{loader.split.name}: residence {loader.residence}, {loader.residence_reason}")
    return train_loader, val_loader


def _loading(timing: dict[str, Any]) -> str:
    counted = timing["loader"]
    return (
        f"{counted['bytes'] / 1e9:.2f} GB loaded, the step waited {counted['consumer_wait_seconds']:.1f} s for it and "
        f"the loader {counted['producer_wait_seconds']:.1f} s for the step"
    )


def _train_epoch(step: TrainStep, loader: ShardLoader, epoch: int, epochs: int) -> dict[str, Any]:
    step.model.train()
    learning_rate = step.scheduler.get_last_lr()[0]
    sums = torch.zeros(2, dtype=torch.float64, device=loader.device)
    before, start, seen = replace(loader.counters), time.perf_counter(), 0
    total = len(loader) * loader.batch_size
    refresh = _STEPS_PER_REFRESH if loader.device.type == "cuda" else 1
    loader.set_epoch(epoch)
    with tqdm(total=total, desc=f"epoch {epoch + 1}/{epochs}", unit="images") as bar:
        for number, batch in enumerate(loader):
            loss, correct = step(batch, epoch)
            seen += len(batch.labels)
            sums += torch.stack([loss * len(batch.labels), correct]).double()
            bar.update(len(batch.labels))
            if number % refresh == 0:
                share = loader.counters.since(before).consumer_wait_seconds / (time.perf_counter() - start)
                bar.set_postfix_str(f"loss {sums[0].item() / seen:.3f}, waiting {share:.1%}")
        train_loss, train_top1 = (sums / seen).tolist()
        seconds = time.perf_counter() - start
        counted = loader.counters.since(before)
        share = counted.consumer_wait_seconds / seconds
        bar.set_postfix_str(f"loss {train_loss:.3f}, waiting {share:.1%}")
    return {
        "epoch": epoch + 1,
        "learning_rate": learning_rate,
        "train_loss": train_loss,
        "train_top1": train_top1,
        "timing": {
            "seconds": seconds,
            "images_per_second": seen / seconds,
            "wait_share": share,
            "loader": asdict(counted),
        },
    }


def _save(folder: Path, step: TrainStep, progress: Progress, metrics: list[dict[str, Any]], *, improved: bool) -> None:
    state = {"step": step.state_dict(), "progress": vars(progress)}
    if improved:
        save_checkpoint(folder, "best", step.model, state)
    lines = b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in metrics)
    (folder / METRICS_NAME).write_bytes(lines)
    save_checkpoint(folder, "last", step.model, state)
