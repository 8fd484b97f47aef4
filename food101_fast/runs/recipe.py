"""Recipes: every setting that decides what a run computes. Each field is a flag of `train` and is stored in the run."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

from food101_fast.errors import UserError
from food101_fast.limits import check_limits
from food101_fast.models.backbone import Backbone
from food101_fast.transforms import PRESETS

Amp = Literal["auto", "fp16", "bf16", "off"]
Compile = Literal["auto", "on", "off"]
CudaGraph = Literal["auto", "on", "off"]
CompileMode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]
Optimizer = Literal["adam", "adamw", "sgd"]
Schedule = Literal["exponential", "cosine", "constant"]
Loss = Literal["cross-entropy", "bce", "focal"]
Method = Literal["finetune", "probe"]
Freeze = Literal["backbone"] | int | None
ClassBalance = Literal["none", "weights", "sampling", "logit-adjust"]
ClassWeights = Literal["inverse", "effective"]

# How long to train, or how to compute the same thing: these may change when a run is resumed.
# The folders of teachers may move; their weights may not change.
CHANGEABLE = (
    "epochs", "patience", "accumulate", "compile", "compile_mode", "cuda_graph", "cudnn_benchmark", "teacher",
)  # fmt: skip


# What a probe computes with. Other fields must have their defaults, since a probe would ignore them.
PROBE_FIELDS = ("method", "model", "weights", "image_size", "batch_size", "amp", "tf32", "cudnn_benchmark", "seed")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training run. The default is `baseline`: fine-tune all layers of an ImageNet MobileNetV2 at 160 px."""

    method: Method = "finetune"
    """finetune (train the network), or probe (train a linear classifier on features of the backbone, which are computed
    once)."""
    model: str = "mobilenet_v2"
    """Any classification model of torchvision (resnet50) or, with the extra timm, of timm (timm/resnet50.a1_in1k,
    timm/hf-hub:USER/NAME). A probe takes several names, and compares them."""
    weights: str = "DEFAULT"
    """Initial weights: a name of the library's weights, a path or URL of a file (.safetensors, .pth, .pt, .ckpt, .bin),
    the folder of a run, or none (random)."""
    drop_path: Annotated[float, Ge(0), Lt(1)] | None = None
    """Stochastic depth: the rate at which the last block is skipped in training, rising linearly from the first block.
    None keeps the model's own rate."""
    image_size: Annotated[int, Ge(32)] = 160
    """Height and width of the model's input, in pixels. Validation and the last epoch always use it. As a flag, native
    is the size that the model was pretrained with."""
    start_size: Annotated[int, Ge(32)] | None = None
    """Height and width in the first epoch, for progressive resizing. It grows to --image-size in steps of 32 pixels."""
    preset: str = "baseline"
    """Augmentation of the training images, all with random crop and flip: baseline (nothing else), strong (rotation,
    color, affine, erasing), trivial (TrivialAugmentWide, erasing, MixUp or CutMix), randaugment (RandAugment, MixUp or
    CutMix), autoaugment (AutoAugment, erasing), or augmix (AugMix)."""
    mixup_alpha: Annotated[float, Ge(0)] | None = None
    """Strength of MixUp: alpha of its distribution Beta(alpha, alpha). None is what --preset has, and 0 is no MixUp.
    With MixUp and CutMix, each image gets one of them."""
    cutmix_alpha: Annotated[float, Ge(0)] | None = None
    """Strength of CutMix: alpha of its distribution Beta(alpha, alpha). None is what --preset has, and 0 is no
    CutMix."""
    erasing: Annotated[float, Ge(0), Le(1)] | None = None
    """Probability that a rectangle of a training image is erased. None is what --preset has, and 0 is never."""
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of each label that is spread evenly over all classes."""
    loss: Loss = "cross-entropy"
    """Loss that training minimizes: cross-entropy, bce (a binary cross-entropy for each class, as in "ResNet strikes
    back"; mean over classes), or focal (well classified images count less). Validation always uses cross-entropy."""
    bce_threshold: Annotated[float, Ge(0), Lt(1)] | None = None
    """With --loss bce: targets above this value, after mixing and smoothing, become 1 and the others 0. By default they
    stay as they are."""
    focal_gamma: Annotated[float, Ge(0)] = 2.0
    """Exponent of the focal loss. 0 is cross-entropy; larger values look more at images that are hard to classify."""
    class_balance: ClassBalance = "none"
    """What to do about classes of unequal size: none, weights (of the classes in the loss), sampling (images of rare
    classes are repeated), or logit-adjust (logits are shifted by the logarithm of the class frequencies)."""
    class_weights: ClassWeights = "inverse"
    """With --class-balance weights: inverse (1 / images of the class), or effective (1 / effective number of images,
    see --effective-beta). Their mean over the training images is 1. A class without training images has weight 0."""
    effective_beta: Annotated[float, Ge(0), Lt(1)] = 0.999
    """Beta of the effective number of images, (1 - beta^n) / (1 - beta) for n images: images of a class beyond about
    1 / (1 - beta) hardly count. 0 weights all classes alike."""
    logit_tau: Annotated[float, Gt(0)] = 1.0
    """With --class-balance logit-adjust: factor on the logarithm of the class frequencies."""
    repeat_threshold: Annotated[float, Gt(0), Le(1)] | None = None
    """For --class-balance sampling: images of a class with a smaller share f of the training images than this number t
    are repeated by the factor sqrt(t / f). None is the share in a balanced data set, 1 / classes."""
    teacher: tuple[str, ...] = ()
    """Folders of trained runs whose mean probabilities the model learns too (distillation). They must have the same
    classes. When the run is resumed they may have moved, but not changed."""
    teacher_temperature: Annotated[float, Gt(0)] = 2.0
    """Temperature of the probabilities that are learned from the teacher; above 1 they tell more about the wrong
    classes. As in Hinton et al., 2015."""
    teacher_weight: Annotated[float, Gt(0), Le(1)] = 0.5
    """Share of the teacher in the loss; the rest is the loss of the labels."""
    epochs: Annotated[int, Ge(1)] = 7
    """Epochs to train. --patience may stop the run earlier."""
    batch_size: Annotated[int, Ge(2)] = 128
    """Images in one optimizer step, over all ranks together. With 4 ranks each gets a quarter of them."""
    accumulate: Annotated[int, Ge(1)] = 1
    """Gradient accumulation: divide each rank's batch into this many chunks and add up their gradients. Needs less
    memory for the same step."""
    optimizer: Optimizer = "adam"
    """adam, adamw (decoupled weight decay), or sgd (with Nesterov momentum)."""
    learning_rate: Annotated[float, Gt(0)] = 5e-5
    """Highest learning rate, used for the head. Each layer group below multiplies it by --layer-decay once more."""
    schedule: Schedule = "exponential"
    """Learning rate after warm-up: exponential (times --lr-gamma after each epoch), cosine (to nearly 0 at the end of
    the last epoch), or constant."""
    lr_gamma: Annotated[float, Gt(0), Le(1)] = 0.98
    """Factor of the exponential schedule. The default lowers 5e-5 to 4.4e-5 by the seventh epoch."""
    warmup_epochs: Annotated[float, Ge(0)] = 0.0
    """Epochs in which the learning rate rises linearly from nearly 0; may be a fraction."""
    momentum: Annotated[float, Gt(0), Lt(1)] = 0.9
    """Momentum of sgd."""
    weight_decay: Annotated[float, Ge(0)] = 0.0
    """Weight decay of adamw and sgd. Biases and normalization layers have none."""
    layer_decay: Annotated[float, Gt(0), Le(1)] = 1.0
    """Factor on the learning rate from each layer group to the one below it. Below 1, early layers change less."""
    freeze: Freeze = None
    """Layers that are never trained: backbone (all layer groups but the head), or a number of layer groups from the
    input on. They need no gradients and no optimizer state, and their BatchNorm keeps its statistics."""
    freeze_batchnorm: bool = False
    """Whether all BatchNorm layers normalize with the statistics of their pretrained weights and keep them, as in
    evaluation; their weights and biases still train. For data sets of few images or few classes."""
    unfreeze_epochs: Annotated[int, Ge(0)] = 0
    """Epochs of gradual unfreezing: the first trains only the head, the next ones more layer groups from the top down.
    After these epochs all layers train. BatchNorm in frozen layers keeps its statistics."""
    clip_norm: Annotated[float, Gt(0)] | None = None
    """Largest gradient norm, over all weights. Larger gradients are scaled down to it."""
    ema_decay: Annotated[float, Ge(0), Lt(1)] | None = None
    """Decay per step of an exponential moving average of the weights. The average is then validated and saved as
    model.safetensors. At step t the decay is at most (1 + t) / (10 + t), so that short runs benefit too."""
    patience: Annotated[int, Ge(1)] | None = 3
    """Stop after this many epochs without a better validation accuracy. None never stops early."""
    amp: Amp = "auto"
    """Mixed precision: fp16 (with gradient scaling), bf16 or off (float32). auto is fp16 on CUDA, bf16 on CPUs with
    AMX, and off on other CPUs."""
    tf32: bool = True
    """Whether CUDA may multiply float32 matrices in TF32 (10 bits of mantissa), where mixed precision leaves float32.
    --no-tf32 forbids it."""
    compile: Compile = "auto"
    """torch.compile for the training step, the transforms and validation. auto is off on the CPU. On CUDA it measures
    40 steps, and compiles if the remaining steps would save more time than compiling takes."""
    compile_mode: CompileMode = "default"
    """Mode of torch.compile. reduce-overhead and max-autotune use CUDA graphs of their own."""
    cuda_graph: CudaGraph = "auto"
    """Capture the whole training step as a CUDA graph, which the CPU launches as one unit. Speeds up small models and
    batches, needs no compiler, works on one GPU only. auto is on with one GPU, unless --compile-mode makes graphs of
    its own or a step waits for the GPU."""
    cudnn_benchmark: bool | None = None
    """Whether cuDNN times several algorithms for each convolution in the first step of each image size, and uses the
    fastest. Without it training starts seconds sooner, with the algorithms that cuDNN estimates to be best. None
    does it in runs of at least 10,000 steps, where it can save more time than it takes."""
    sync_batchnorm: bool = False
    """With several ranks: compute BatchNorm statistics over the batch of all ranks instead of each rank's own (CUDA
    only)."""
    window: Annotated[int, Ge(2)] | None = None
    """Number of images that are shuffled together; by default all. Must be at least a batch. Training then needs only
    the shards of three windows at a time on disk and in memory: for remote data sets that are larger than the disk."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of initial weights, order of the images, augmentation and dropout."""

    @property
    def backbone(self) -> Backbone:
        """The network without weights and head."""
        return Backbone(name=self.model, image_size=self.image_size, drop_path=self.drop_path)

    @property
    def loss_name(self) -> str:
        """Title for an axis with the losses of training and of validation, which are always cross-entropies."""
        unweighted = self.class_balance in ("none", "sampling")
        plain = self.loss == "cross-entropy" and unweighted and not self.teacher and not self.label_smoothing
        return "cross-entropy" if plain else "loss (of validation: cross-entropy)"

    def compiles_on(self, device_type: str) -> bool:
        """Whether anything is compiled on a device of this type: on CUDA `auto` compiles at least the augmentation."""
        return self.compile == "on" or (self.compile == "auto" and device_type == "cuda")

    def repeats_below(self, classes: int) -> float | None:
        """Share of the training images below which a class is repeated, `repeat_threshold` of `ShardLoader`.

        Args:
            classes: how many the data set has.

        Returns:
            None if images are not repeated.
        """
        if self.class_balance != "sampling":
            return None
        return 1 / classes if self.repeat_threshold is None else self.repeat_threshold

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

    def differences(self, other: Recipe) -> list[tuple[str, Any, Any]]:
        """Name and both values, its own first, of each field that is different in another recipe."""
        values = [(field.name, getattr(self, field.name), getattr(other, field.name)) for field in fields(self)]
        return [(name, mine, others) for name, mine, others in values if mine != others]

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise UserError(f"--preset {self.preset!r} should be one of: {', '.join(PRESETS)}")
        check_limits(self)
        if self.method == "probe":
            self._refuse_unused()
        if self.bce_threshold is not None and self.loss != "bce":
            raise UserError(f"--bce-threshold {self.bce_threshold} needs --loss bce; give both, or leave it out")
        if self.class_balance == "logit-adjust" and self.loss == "bce":
            raise UserError(
                "--class-balance logit-adjust shifts the logits of a softmax, and --loss bce has none; use --loss "
                "cross-entropy or focal, or --class-balance weights"
            )
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
        if isinstance(self.freeze, int) and self.freeze < 1:
            raise UserError(
                f"--freeze {self.freeze} should be at least 1, or backbone; leave it out to train all layers"
            )
        if self.freeze is not None and self.unfreeze_epochs:
            raise UserError(
                f"--freeze {self.freeze} keeps layers frozen and --unfreeze-epochs {self.unfreeze_epochs} trains all "
                "in the end; leave --freeze out, or give --unfreeze-epochs 0"
            )
        if self.freeze_batchnorm and self.weights == "none":
            raise UserError(
                "--freeze-batchnorm keeps the statistics of pretrained weights; give --weights, or leave it out"
            )
        if self.accumulate > 1 and self.compile_mode in ("reduce-overhead", "max-autotune"):
            # Such graphs overwrite the gradients of the chunk before: pytorch/pytorch#169545.
            raise UserError(
                f"--accumulate {self.accumulate} cannot be combined with --compile-mode {self.compile_mode}; use "
                "default or max-autotune-no-cudagraphs"
            )
        if self.repeat_threshold is not None and self.class_balance != "sampling":
            raise UserError(
                f"--repeat-threshold {self.repeat_threshold} needs --class-balance sampling; give that, or leave it out"
            )
        if self.optimizer == "adam" and self.weight_decay:
            raise UserError("--weight-decay needs --optimizer adamw or sgd, since adam has none; give one of those")

    def _refuse_unused(self) -> None:
        """Refuse settings that a probe would ignore.

        Raises:
            UserError: a field has another value than its default.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in PROBE_FIELDS and value != field.default:
                raise UserError(
                    f"--{field.name.replace('_', '-')} {value} does nothing in a probe, which trains a linear "
                    "classifier on features of unchanged images; leave it out"
                )
