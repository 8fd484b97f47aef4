"""Recipes: all that decides what a run computes. Each field is a flag of `train` and is stored with the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from food101_fast.errors import UserError
from food101_fast.limits import check_limits
from food101_fast.transforms import PRESETS

Amp = Literal["auto", "fp16", "bf16", "off"]
Compile = Literal["auto", "on", "off"]
CudaGraph = Literal["auto", "on", "off"]
CompileMode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]
Optimizer = Literal["adam", "adamw", "sgd"]
Schedule = Literal["exponential", "cosine", "constant"]

# Fields that say how long to train or how to compute the same thing: they may be changed when a run goes on.
CHANGEABLE = ("epochs", "patience", "accumulate", "compile", "compile_mode", "cuda_graph", "cudnn_benchmark")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training run. The defaults are the recipe `baseline`: an ImageNet MobileNetV2, fine-tuned whole at 160 px."""

    model: str = "mobilenet_v2"
    """Any torchvision classification model, by its name in torchvision.models."""
    weights: str = "DEFAULT"
    """Where the weights start: the name of torchvision weights, a file (.safetensors or .pth), or none."""
    image_size: Annotated[int, Ge(32)] = 160
    """Height and width that the model sees, in pixels; always so in validation and in the last epoch."""
    start_size: Annotated[int, Ge(32)] | None = None
    """Height and width in the first epoch, for progressive resizing: it grows to --image-size in steps of 32 pixels."""
    preset: str = "baseline"
    """Augmentation of the training images: baseline (random crop and flip), strong (also rotation, colour, affine,
    erasing), or trivial (crop, flip, TrivialAugmentWide, erasing, MixUp or CutMix)."""
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of the label that is spread over all classes."""
    epochs: Annotated[int, Ge(1)] = 7
    """Times that every training image is seen, at the most."""
    batch_size: Annotated[int, Ge(2)] = 128
    """Images in one optimizer step, over all ranks together: each of 4 ranks gets a quarter of them."""
    accumulate: Annotated[int, Ge(1)] = 1
    """Parts that a rank's batch is cut into, whose gradients are added up: less memory, the same step."""
    optimizer: Optimizer = "adam"
    """adam, adamw (decoupled weight decay), or sgd (with Nesterov momentum)."""
    learning_rate: Annotated[float, Gt(0)] = 5e-5
    """Highest learning rate, of the head; other layers have it times --layer-decay for each layer group below."""
    schedule: Schedule = "exponential"
    """Learning rate after the warm-up: exponential (times --lr-gamma after each epoch), cosine (to nearly 0 at the end
    of the last epoch), or constant."""
    lr_gamma: Annotated[float, Gt(0), Le(1)] = 0.98
    """Factor of the exponential schedule; the default goes from 5e-5 to 4.4e-5 in the seventh epoch."""
    warmup_epochs: Annotated[float, Ge(0)] = 0.0
    """Epochs, or a part of one, in which the learning rate rises linearly from nearly 0."""
    momentum: Annotated[float, Gt(0), Lt(1)] = 0.9
    """Of sgd."""
    weight_decay: Annotated[float, Ge(0)] = 0.0
    """Of adamw and sgd, on weights of more than one dimension: not on biases and normalisation."""
    layer_decay: Annotated[float, Gt(0), Le(1)] = 1.0
    """Factor on the learning rate from each layer group to the one below it; below 1, early layers change less."""
    unfreeze_epochs: Annotated[int, Ge(0)] = 0
    """Epochs of progressive unfreezing: the first trains the head only, then more layers from the top down, and all
    after so many. Normalisation in frozen layers keeps its statistics."""
    clip_norm: Annotated[float, Gt(0)] | None = None
    """Longest gradient, as the norm over all weights; longer ones are cut to it."""
    ema_decay: Annotated[float, Ge(0), Lt(1)] | None = None
    """Decay per step of an exponential moving average of the weights, which is then what is validated and kept as
    model.safetensors; at step t it is at most (1 + t) / (10 + t), so that short runs have a use for it."""
    patience: Annotated[int, Ge(1)] | None = 3
    """Stop after this many epochs without a better validation accuracy; None is never."""
    amp: Amp = "auto"
    """Mixed precision: fp16 (with gradient scaling), bf16 or off (float32); auto is fp16 on CUDA, bf16 on CPUs with
    AMX, and off on others."""
    tf32: bool = True
    """Whether CUDA may multiply float32 with 10 bits of mantissa (TF32), where mixed precision leaves float32."""
    compile: Compile = "auto"
    """torch.compile for training step, transforms and validation; auto is off on the CPU, and on CUDA measures 40 steps
    and compiles if the steps that are left gain more than compiling takes."""
    compile_mode: CompileMode = "default"
    """Mode of torch.compile; reduce-overhead and max-autotune use CUDA graphs."""
    cuda_graph: CudaGraph = "auto"
    """Capture the whole training step as a CUDA graph, which the host launches at once: for small models and batches.
    Needs no compiler; one GPU only. auto is on where there is one GPU, --compile-mode makes no graphs of its own, and
    no step waits for the GPU."""
    cudnn_benchmark: bool = True
    """Have cuDNN try several algorithms for each convolution in the first step of each image size, and keep the
    fastest; --no-cudnn-benchmark starts sooner and takes the ones that cuDNN thinks best."""
    sync_batchnorm: bool = False
    """With several ranks: normalise over the whole batch instead of each rank's part of it (CUDA only)."""
    window: Annotated[int, Ge(2)] | None = None
    """Images that are shuffled among each other; by default all. A smaller window, of at least a batch, needs only the
    shards of three windows at a time, on the disk and in memory: for data sets behind a URL larger than the disk."""
    seed: Annotated[int, Ge(0)] = 0
    """Decides initial weights, the order of the images, their augmentation and dropout."""

    def compiles_on(self, device_type: str) -> bool:
        """Whether anything is compiled on a device of this type: with `auto` at least the augmentation, on CUDA."""
        return self.compile == "on" or (self.compile == "auto" and device_type == "cuda")

    def batch_size_per_rank(self, world_size: int) -> int:
        """Images that one rank loads for a step: `batch_size` of its `ShardLoader`.

        Args:
            world_size: number of ranks.

        Raises:
            UserError: `batch_size` can't be divided evenly into the chunks of all ranks.
        """
        chunks = world_size * self.accumulate
        if self.batch_size % chunks:
            ranks = f"{world_size} ranks times " if world_size > 1 else ""
            raise UserError(
                f"--batch-size {self.batch_size} is the batch of all ranks together and is not a multiple of "
                f"{ranks}--accumulate {self.accumulate}; choose a multiple of {chunks}"
            )
        return self.batch_size // world_size

    def chunk_size(self, world_size: int) -> int:
        """Images in one forward pass of one rank: its batch, divided by `accumulate`."""
        return self.batch_size_per_rank(world_size) // self.accumulate

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise UserError(f"--preset {self.preset!r} should be one of: {', '.join(PRESETS)}")
        check_limits(self)
        if self.window is not None and self.window < self.batch_size:
            raise UserError(f"--window {self.window} should be at least {self.batch_size}, which is --batch-size")
        if self.start_size is not None and self.start_size > self.image_size:
            raise UserError(
                f"--start-size {self.start_size} should be at most --image-size {self.image_size}; give both, or "
                "--start-size None for one size"
            )
        for flag, number in (("--warmup-epochs", self.warmup_epochs), ("--unfreeze-epochs", self.unfreeze_epochs)):
            if number > self.epochs:
                raise UserError(f"{flag} {number} should be at most --epochs {self.epochs}; give both")
        if self.accumulate > 1 and self.compile_mode in ("reduce-overhead", "max-autotune"):
            # Such graphs overwrite the gradients of the part before: pytorch/pytorch#169545.
            raise UserError(
                f"--accumulate {self.accumulate} cannot be combined with --compile-mode {self.compile_mode}; use "
                "default or max-autotune-no-cudagraphs"
            )
        if self.optimizer == "adam" and self.weight_decay:
            raise UserError("--weight-decay goes with --optimizer adamw or sgd, not with adam; give one of those")


RECIPES: dict[str, Recipe] = {
    "baseline": Recipe(),
    # Strengths of augmentation, smoothing and decay as in torchvision's own recipe for its second ImageNet weights,
    # with the learning rate of a fine-tuning.
    "strong": Recipe(
        model="resnet50",
        image_size=224,
        preset="trivial",
        label_smoothing=0.1,
        epochs=20,
        batch_size=256,
        optimizer="adamw",
        learning_rate=3e-4,
        schedule="cosine",
        warmup_epochs=1,
        weight_decay=0.05,
        clip_norm=1.0,
        ema_decay=0.999,
        patience=None,
    ),
    "fast": Recipe(
        start_size=96,
        label_smoothing=0.1,
        epochs=4,
        batch_size=256,
        optimizer="adamw",
        learning_rate=1e-3,
        schedule="cosine",
        warmup_epochs=0.5,
        weight_decay=0.01,
        layer_decay=0.9,
        patience=None,
    ),
    "unfreeze": Recipe(
        label_smoothing=0.1,
        epochs=8,
        optimizer="adamw",
        learning_rate=1e-3,
        schedule="cosine",
        weight_decay=0.01,
        layer_decay=0.85,
        unfreeze_epochs=4,
        patience=None,
    ),
    # From scratch, small and short: for a CPU and about a thousand images.
    "demo": Recipe(
        model="resnet18",
        weights="none",
        image_size=64,
        epochs=6,
        batch_size=32,
        learning_rate=1e-3,
        lr_gamma=0.65,
        patience=6,
    ),
}
