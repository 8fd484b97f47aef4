"""One optimizer step: augment, forward, backward, update. It is queued on the device, and the host never waits."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from food101_fast.compute.distributed import World
from food101_fast.compute.precision import Precision
from food101_fast.errors import UserError
from food101_fast.loader import Batch
from food101_fast.models import layer_groups
from food101_fast.runs.recipe import Recipe
from food101_fast.train.batchnorm import BatchCounters, flattened
from food101_fast.train.compiled import Compiler
from food101_fast.train.distillation import Teacher, distilled
from food101_fast.train.ema import ModelAverage
from food101_fast.train.graph import GraphedFunction, uses_graph
from food101_fast.train.loss import build_loss
from food101_fast.train.optimizer import build_optimizer, learning_rate_on_device, set_learning_rate
from food101_fast.train.schedule import Phase, never_trained, step_seed
from food101_fast.train.state import StepState
from food101_fast.transforms import InputSpec, Preset, train_preset
from food101_fast.transforms.normalize import IMAGENET


class TrainStep:
    """A model, its optimizer, and one training step.

    Args:
        recipe: what to compute.
        model: is moved to the device, in channels_last memory.
        device: to compute on.
        num_classes: number of classes, for presets that mix images.
        world: the ranks that share each batch.
        class_counts: training images of each class, for recipes that weight classes or adjust logits.
        teacher: of a recipe that has one, on the device.
        compiled: whether to compile the model from the first step on. None leaves it to the recipe, whose `auto` then
            compiles on CUDA where the step is not a CUDA graph.
        inputs: the images that the model expects.

    Attributes:
        model: the model itself, not wrapped in anything.
        graphed: whether a step is one CUDA graph, from the fourth step on.
        obstacle: why a step can't be a CUDA graph although the recipe allows it; None if it can.
        optimizer: fused, so that it can skip a step without the host knowing.
        average: the moving average of the weights, or None.
        streak: int64 () on the device: steps in a row, up to the last one, that were skipped since a gradient was NaN
            or Inf.
        skipped: int64 () on the device: all skipped steps since it was last set to 0.

    Raises:
        UserError: the recipe asks for something that the device can't do, or that the model can't do (that is known
            at the third step).
    """

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        device: torch.device,
        num_classes: int | None = None,
        world: World | None = None,
        *,
        class_counts: Sequence[int] | None = None,
        teacher: Teacher | None = None,
        compiled: bool | None = None,
        inputs: InputSpec = IMAGENET,
    ) -> None:
        self.recipe = recipe
        self._inputs = inputs
        self.device = device
        self.world = world or World()
        self.precision = Precision(recipe.amp, device)
        self.graphed = uses_graph(recipe, device, self.world)
        self.obstacle: str | None = None
        if compiled is None:
            compiled = recipe.compile == "on" or (recipe.compiles_on(device.type) and not self.graphed)
        self._compiled = compiled
        self._compiler = Compiler(required=recipe.compile == "on", warns=self.world.is_main)
        self._num_classes = num_classes
        self._loss = build_loss(recipe, class_counts).to(device)
        if bool(recipe.teacher) != (teacher is not None):
            raise ValueError("a step has a teacher if its recipe has one; see `distillation.load_teacher`")
        self._teacher = teacher
        if recipe.sync_batchnorm:
            if device.type != "cuda":
                raise UserError("--sync-batchnorm: torch supports it on CUDA only; leave it out, or use --device cuda")
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        self.model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.world.share([*self.model.parameters(), *self.model.buffers()])
        # In one tensor, so that one kernel saves or restores all: a forward pass with NaN or Inf puts it into them, and
        # the gradient scaler only protects the weights.
        floating = [buffer for buffer in self.model.buffers() if buffer.dtype == torch.float32]
        self._statistics = flattened(floating, torch.float32, device)
        self._counters = BatchCounters(self.model, device)
        self.layers = layer_groups(self.model)
        self.optimizer = build_optimizer(recipe, self.model)
        self.average = None if recipe.ema_decay is None else ModelAverage(self.model, recipe.ema_decay)
        self.streak = torch.zeros((), dtype=torch.int64, device=device)
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)
        self._lr_factor = 1.0
        self.preset: Preset
        self.start_phase(Phase(recipe.image_size, frozen=never_trained(recipe, len(self.layers))))

    def start_phase(self, phase: Phase) -> None:
        """Train with this image size and these layers from the next step on."""
        self.phase = phase
        trained = {name for names in self.layers[phase.frozen :] for name in names}
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in trained)
        self._trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.preset = train_preset(
            self.recipe.preset,
            phase.image_size,
            num_classes=self._num_classes,
            inputs=self._inputs,
            mixup_alpha=self.recipe.mixup_alpha,
            cutmix_alpha=self.recipe.cutmix_alpha,
            erasing=self.recipe.erasing,
        ).to(self.device)
        self._network: nn.Module = self.model
        if self.world.size > 1:  # it must know which gradients to expect
            ids = [self.device.index] if self.device.type == "cuda" else None
            self._network = DistributedDataParallel(self.model, device_ids=ids, gradient_as_bucket_view=True)
        self._make_functions()

    @property
    def compiled(self) -> bool:
        """Whether the model is compiled. False once compiling has failed."""
        return self._compiled and self._compiler.works

    @property
    def can_compile(self) -> bool:
        """Whether compiling has not failed yet."""
        return self._compiler.works

    @property
    def compiles_preset(self) -> bool:
        """Whether the augmentation is compiled: with the model, and wherever a step is not one CUDA graph.

        Without a graph the host would take longer to launch the transforms' hundreds of kernels than the device to
        compute them. Compiling fuses them within seconds, which pays even where compiling the model does not.
        """
        wanted = self._compiled or (self.recipe.compiles_on(self.device.type) and not self.graphed)
        return wanted and self._compiler.works

    def _make_functions(self) -> None:
        """Make the functions that a step calls, compiled and captured where the recipe wants that."""
        self._forward = self.compile(self._network)
        # In the default mode: the CUDA graphs of other modes gain little here, and would keep their memory.
        self._augment = self._compiler(self.preset, fullgraph=True) if self.compiles_preset else self.preset
        self._teach: Callable[..., Any] | None = self._teacher
        if self._teacher is not None and self.compiled:
            self._teach = self._compiler(self._teacher)  # in the default mode, as above
        self._graph = GraphedFunction(self._capturable) if self.graphed else None

    def compile_from_now_on(self) -> None:
        """Compile from the next step on, where a measurement has decided so."""
        self._compiled = True
        self._make_functions()

    def _leave_graph(self, obstacle: str) -> None:
        """Stop using a CUDA graph from the next step on.

        Raises:
            UserError: the recipe wants one.
        """
        if self.recipe.cuda_graph == "on":
            raise UserError(
                f"--cuda-graph on: a step of {self.recipe.model} can't be a CUDA graph, since {obstacle}; leave it out"
            )
        self.graphed, self.obstacle = False, obstacle
        self._make_functions()

    def compile(self, module: nn.Module) -> Callable[..., Any]:
        """The module, compiled if the step is: each shape of its input has a graph of its own."""
        return self._compiler(module, mode=self.recipe.compile_mode) if self.compiled else module

    @property
    def evaluated(self) -> nn.Module:
        """The model to validate and save: the average, if there is one."""
        return self.model if self.average is None else self.average.model

    def train_mode(self) -> None:
        """Put the model into training mode, except frozen layers: their own parameters, or their statistics are."""
        self.model.train()
        for module in self.model.modules():
            own = list(module.parameters(recurse=False))
            is_frozen = own and not any(parameter.requires_grad for parameter in own)
            if is_frozen or (self.recipe.freeze_batchnorm and isinstance(module, _BatchNorm)):
                module.eval()
        self._counters.read_modes()

    def prepare(self, number: int, lr_factor: float) -> None:
        """Set learning rate and random state for a step.

        Args:
            number: of the step, from 0, over the whole run.
            lr_factor: factor on the highest learning rate.
        """
        self._lr_factor = float(lr_factor)
        set_learning_rate(self.optimizer, lr_factor)
        torch.manual_seed(step_seed(self.recipe.seed, number, self.world.rank))

    def __call__(self, batch: Batch, epoch: int) -> tuple[Tensor, Tensor]:
        """Augment, forward, backward, update.

        Args:
            batch: of this rank.
            epoch: number of the epoch, from 0, for the augmentation.

        Returns:
            The mean loss (see `loss`) and the number of correct predictions of this rank's samples, by plain logits:
            float64 (), on the device. With a CUDA graph the next step overwrites them.
        """
        if self._graph is None:
            return self.update(*self.augment(batch, epoch))
        weight = 0.0 if self.average is None else self.average.next_weight()
        graph = self._graph
        loss, correct = graph((batch.images, batch.labels, batch.draws), (epoch, self._lr_factor, weight))
        if graph.obstacle is not None:
            self._leave_graph(graph.obstacle)
        return loss, correct

    def _capturable(
        self, images: Tensor, labels: Tensor, ids: Tensor, epoch: Tensor, lr_factor: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The step for a CUDA graph: all numbers that change from step to step are tensors on the device."""
        with learning_rate_on_device(self.optimizer, lr_factor):
            seen = self._augment(images, labels, seed=self.recipe.seed, epoch=epoch, ids=ids)
            return self.update(*seen, weight=weight)

    def augment(self, batch: Batch, epoch: int) -> tuple[Tensor, Tensor]:
        """The batch after augmentation for `epoch`.

        Returns:
            Normalized images, float (N, 3, h, w); labels, int64 (N,) or, if images are mixed, float32 (N, classes).
        """
        # As a tensor, so that a compiled graph serves every epoch.
        number = torch.full((), epoch, dtype=torch.int64, device=batch.draws.device)
        return cast(
            tuple[Tensor, Tensor],
            self._augment(batch.images, batch.labels, seed=self.recipe.seed, epoch=number, ids=batch.draws),
        )

    def update(self, images: Tensor, labels: Tensor, *, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The step after `augment`. Of mixed labels, the one with the largest share counts as correct.

        If a gradient is NaN or Inf the step is skipped: weights, BatchNorm statistics and optimizer state stay
        unchanged.

        Args:
            images: normalized, (N, 3, h, w).
            labels: int64 (N,) or float32 (N, classes).
            weight: see `apply`.
        """
        results = self.backward(images, labels)
        self.apply(weight)
        return results

    def backward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The first half of `update`: forward and backward, which leave gradients in the parameters."""
        self._before = self._statistics.clone()
        count = self.recipe.accumulate
        chunks = zip(images.chunk(count), labels.chunk(count), strict=True)
        results = [self._backward(*chunk, number=number) for number, chunk in enumerate(chunks)]
        loss, correct = torch.stack([torch.stack(result) for result in results]).sum(dim=0).unbind()
        return loss, correct

    def logits(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images that `augment` gave. Not used by a step."""
        with self.precision.autocast():
            return cast(Tensor, self._forward(images))

    def apply(self, weight: Tensor | None = None) -> None:
        """The second half of `update`: the optimizer's step, if the gradients are finite, and the average.

        Args:
            weight: the model's weight in the average, float32 () on the device; None counts the update and computes it.
        """
        self.precision.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.get_total_norm([p.grad for p in self._trained if p.grad is not None])
        if self.recipe.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self._trained, self.recipe.clip_norm, norm)
        self.precision.step(self.optimizer)

        finite = torch.isfinite(norm)
        self._statistics.copy_(torch.where(finite, self._statistics, self._before))
        self.streak.add_(1).mul_(~finite)
        self.skipped.add_(~finite)
        if self.average is not None:
            self.average.move(self.average.next_weight() if weight is None else weight)

    def _backward(self, images: Tensor, labels: Tensor, *, number: int) -> tuple[Tensor, Tensor]:
        """Add the gradients of a chunk of the batch; returns its share of the mean loss, and its hits."""
        chunks = self.recipe.accumulate
        waits = number < chunks - 1 and isinstance(self._network, DistributedDataParallel)
        # Ranks exchange gradients once, with the last chunk.
        with self._network.no_sync() if waits else contextlib.nullcontext():  # type: ignore[operator]
            taught = self._taught(images)  # first, so that its activations are freed before the model's are made
            with self.precision.autocast():
                with self._counters.counting():
                    logits = self._forward(images)
                loss: Tensor = self._loss(logits, labels)
                if taught is not None:
                    temperature, share = self.recipe.teacher_temperature, self.recipe.teacher_weight
                    loss = distilled(loss, logits, taught, temperature=temperature, weight=share)
                loss = loss / chunks
            if number == 0:
                # Not before the forward pass: on a CPU the backward pass then reuses their memory at once (2 % faster).
                self.optimizer.zero_grad(set_to_none=True)
            with self._compiler.backward():
                self.precision.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        classes = labels.argmax(dim=1) if labels.ndim == 2 else labels
        correct = (logits.detach().argmax(dim=1) == classes).sum()
        return loss.detach().double(), correct.double()

    def _taught(self, images: Tensor) -> Tensor | None:
        """What the teacher says about a chunk of the batch, if there is one: float32 (N, classes)."""
        if self._teach is None:
            return None
        # Not inference mode, whose tensors a backward pass can't use.
        with torch.no_grad(), self.precision.autocast():
            return cast(Tensor, self._teach(images))

    def state(self) -> StepState:
        """Everything but the weights that the next step depends on. Its tensors are the optimizer's own."""
        return StepState(
            optimizer=self.optimizer.state_dict(),
            scaler=self.precision.scaler.state_dict(),
            averaged=0 if self.average is None else self.average.updates,
            streak=int(self.streak),
            skipped=int(self.skipped),
        )

    def restore(self, state: StepState) -> None:
        """Restore what `state` gave; the weights are loaded apart from it."""
        self.optimizer.load_state_dict(state.optimizer)
        self.precision.scaler.load_state_dict(state.scaler)
        if self.average is not None:
            self.average.updates = state.averaged
        self.streak.fill_(state.streak)
        self.skipped.fill_(state.skipped)
