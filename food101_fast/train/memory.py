"""Finds the largest batch that fits into the device's memory, by trying."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from food101_fast.errors import UserError
from food101_fast.loader import Batch
from food101_fast.models import build_model
from food101_fast.train.context import TrainContext
from food101_fast.train.step import TrainStep

# The first step allocates the optimizer's state, the second one runs beside it.
_TRIAL_STEPS = 2
# Images in the two trials from which the memory of larger ones is extrapolated.
_SMALL = (8, 32)
# The two small trials may overestimate, since cuDNN's workspaces do not grow evenly. So a batch is also tried if it
# seems to need slightly more memory than there is.
_TOLERANCE = 1.1
# What libraries below torch report when memory runs out; torch raises it as a plain RuntimeError. cuDNN reports "not
# supported" or "no valid algorithm" when none of its algorithms gets the memory that it needs.
# Source: accelerate's `should_reduce_batch_size` and Lightning's `is_oom_error` look for the same.
_MEMORY_MESSAGES = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "cudaErrorMemoryAllocation",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDNN_STATUS_NOT_SUPPORTED",
    "Unable to find a valid cuDNN algorithm",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
)

Trial = Callable[[int], int]
"""Trains steps with this many images; returns the peak of the device's memory in bytes, 0 if it is unknown."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch, or of a library below it, means that the device's memory ran out."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _MEMORY_MESSAGES)


@contextlib.contextmanager
def out_of_memory_ends() -> Iterator[None]:
    """A context that suppresses errors that mean that the device's memory ran out."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise


def largest_batch(trial: Trial, *, below: int, capacity: int = 0) -> int | None:
    """The largest power of two below `below` for which `trial` does not run out of memory; None if there is none.

    The memory of a step grows almost linearly with its batch. So the largest batch that should fit is extrapolated from
    two small trials. It is tried, and then its half and so on, until one fits.

    Args:
        trial: raises an error that `is_out_of_memory` recognizes if the images do not fit.
        below: smallest batch that is not tried.
        capacity: bytes of memory; 0 if that is unknown, and then the largest batch is tried first.
    """

    def peak(size: int) -> int | None:
        """Peak memory of a trial, in bytes; None if it does not fit."""
        result = None
        with out_of_memory_ends():
            result = trial(size)
        release()  # after the error is gone, with the tensors in its frames
        return result

    most = 1 << max((below - 1).bit_length() - 1, 0)
    fitted = None
    if capacity and most > _SMALL[-1]:
        peaks = {}
        for size in _SMALL:
            needed = peak(size)
            if needed is None:
                most = size // 2
                break
            peaks[size], fitted = needed, size
        else:
            most = min(most, extrapolated(peaks, capacity))
    size = most
    while 1 <= size < below and size != fitted:
        if peak(size) is not None:
            return size
        size //= 2
    return fitted


def extrapolated(peaks: dict[int, int], capacity: int) -> int:
    """The largest power of two that should fit, but at least the larger batch of the two trials.

    Args:
        peaks: images of the two trials, and the bytes that they needed; the smaller trial first.
        capacity: bytes of memory.
    """
    (small, least), (large, most) = peaks.items()
    slope = (most - least) / (large - small)
    if slope <= 0:  # the peak does not depend on the batch, so it says nothing
        return 1 << 62
    images = (_TOLERANCE * capacity - least) / slope + small
    return max(1 << max(int(images), 1).bit_length() - 1, large)


def release() -> None:
    """Free the memory of objects that are no longer used."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def capacity_of(device: torch.device) -> int:
    """Bytes of a CUDA device's memory that this process may use; 0 for other devices."""
    if device.type != "cuda":
        return 0
    release()
    free, total = torch.cuda.mem_get_info(device)
    reserved = torch.cuda.memory_reserved(device)
    allowed = int(torch.cuda.get_per_process_memory_fraction(device) * total)
    return max(min(free + reserved, allowed), 0)


def trial_steps(context: TrainContext) -> Trial:
    """A trial for `largest_batch`: whole steps of the recipe on images of zeros, at the largest size, all layers.

    It has a model of its own. Compiled graphs need no more memory than eager ones, so nothing is compiled.
    """
    recipe, device = context.recipe, context.device

    def trial(size: int) -> int:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        eager = replace(recipe, compile="off", cuda_graph="off", accumulate=1, sync_batchnorm=False)
        model = build_model(recipe.backbone, "none", context.classes)
        step = TrainStep(
            eager,
            model,
            device,
            context.classes,
            class_counts=context.class_counts,
            teacher=context.teacher,
            inputs=context.inputs,
        )
        step.train_mode()
        shape = (size, context.stored_size, context.stored_size, 3)
        images = torch.zeros(shape, dtype=torch.uint8, device=device).permute(0, 3, 1, 2)
        numbers = torch.arange(size, device=device)
        for _ in range(_TRIAL_STEPS):
            step(Batch(images, numbers % context.classes, numbers), 0)
        return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0

    return trial


def fit_batch(context: TrainContext, *, samples: int, trial: Trial, capacity: int) -> int:
    """The largest batch size of a recipe, over all ranks, that fits into the memory of every rank's device.

    Each rank's chunk of images (see `Recipe.chunk_size`) is then a power of two.

    Args:
        context: of the run; the recipe's own batch size does not matter.
        samples: training images; a batch has no more.
        trial: as `trial_steps` makes it.
        capacity: bytes of this rank's device, as `capacity_of` knows them.

    Raises:
        UserError: the device is not a CUDA device, or not even one image fits.
    """
    recipe, world = context.recipe, context.world
    if context.device.type != "cuda":
        raise UserError(
            "--auto-batch tries how much fits into a GPU's memory, and there is none here; give --batch-size"
        )
    most = samples // (world.size * recipe.accumulate)
    fits = world.least(largest_batch(trial, below=most + 1, capacity=capacity) or 0)
    if fits * world.size * recipe.accumulate < 2:
        raise UserError(
            f"not even one image of {recipe.image_size} pixels fits into the device's memory with {recipe.model}; "
            "choose a smaller --model or --image-size"
        )
    return fits * world.size * recipe.accumulate


def out_of_memory(context: TrainContext, trial: Trial) -> UserError:
    """The error if a step did not fit, with the largest batch that fits, which is measured by a trial."""
    release()
    recipe, device, ranks = context.recipe, context.device, context.world.size
    chunk = recipe.chunk_size(ranks)
    peak = f", at a peak of {torch.cuda.max_memory_allocated(device) / 1e9:.2f} GB" if device.type == "cuda" else ""
    fits = largest_batch(trial, below=chunk, capacity=capacity_of(device))
    if fits is None:
        advice = "not even one image fits; choose a smaller --model or --image-size"
    else:
        chunks = -(-recipe.batch_size_per_rank(ranks) // fits)
        advice = (
            f"the largest power of two that fits is --batch-size {fits * ranks * recipe.accumulate}; or keep the batch "
            f"and divide it into chunks with --accumulate {1 << (chunks - 1).bit_length()}"
        )
    return UserError(
        f"out of device memory with --batch-size {recipe.batch_size} ({chunk} images of {recipe.image_size} pixels at "
        f"a time){peak}: {advice}"
    )
