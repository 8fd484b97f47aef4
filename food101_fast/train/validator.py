"""Validation after each epoch of a run, with a model that is compiled once."""

from __future__ import annotations

from collections.abc import Callable

from food101_fast.loader import ShardLoader
from food101_fast.train.context import TrainContext
from food101_fast.train.signals import StopRequest
from food101_fast.train.step import TrainStep
from food101_fast.train.validate import FirstCall, Validation, eval_twin
from food101_fast.transforms import Preset


class Validator:
    """Measures the weights that a run saves for use: the average, if there is one.

    Args:
        context: of the run.
        step: whose weights are validated.
        loader: of the validation images.
        preset: of evaluation, on the device.
        validate: see `Hooks.validate`.
    """

    def __init__(
        self,
        context: TrainContext,
        step: TrainStep,
        loader: ShardLoader,
        preset: Preset,
        validate: Callable[..., Validation | None],
    ) -> None:
        self._context = context
        self._step = step
        self._loader = loader
        self._preset = preset
        self._validate = validate
        self.build()

    def build(self) -> None:
        """Make the model for validation: compiled, if the step is."""
        self._model = FirstCall(self._step.compile(eval_twin(self._step.evaluated)))

    def __call__(self, stop: StopRequest) -> tuple[Validation | None, float]:
        """Validate; every rank must call it.

        Returns:
            The result of `validate`, None if a signal stopped it; and the seconds that were spent on compilation.
        """
        world, earlier = self._context.world, self._model.seconds
        for model in (self._step.model, self._step.evaluated):
            world.share(model.buffers())
        validation = self._validate(
            self._model,
            self._loader,
            self._preset,
            self._step.precision,
            world=world,
            stopping=(lambda: stop.signal is not None) if world.size == 1 else None,
        )
        return validation, self._model.seconds - earlier if self._step.compiled else 0.0
