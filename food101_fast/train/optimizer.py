"""The optimizers that a recipe can name, all of them fused, and with a learning rate for each layer group.

To add an optimizer, add its name to `runs.recipe.Optimizer` and a function that makes it to `OPTIMIZERS` below. It must
be fused, so that the device alone can skip a step whose gradients are not finite. Its step must be proportional to the
learning rate; see `scale_steps`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from food101_fast.models import layer_groups
from food101_fast.runs.recipe import Optimizer, Recipe
from food101_fast.train.schedule import never_trained

ParameterGroups = list[dict[str, object]]
"""torch's parameter groups: `params`, `lr`, `initial_lr` and `weight_decay` of each."""


def _adam(recipe: Recipe, groups: ParameterGroups) -> torch.optim.Optimizer:
    return torch.optim.Adam(groups, recipe.learning_rate, fused=True)


def _adamw(recipe: Recipe, groups: ParameterGroups) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, recipe.learning_rate, fused=True)


def _sgd(recipe: Recipe, groups: ParameterGroups) -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD(groups, recipe.learning_rate, momentum=recipe.momentum, nesterov=True, fused=True)
    # torch makes the buffers in the first step, but does not fill them if that step is skipped, and can't make those
    # of layers that are unfrozen later.
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


OPTIMIZERS: dict[Optimizer, Callable[[Recipe, ParameterGroups], torch.optim.Optimizer]] = {
    "adam": _adam,
    "adamw": _adamw,
    "sgd": _sgd,
}
"""Makes each optimizer from a recipe and the parameter groups."""


def build_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """The recipe's optimizer over all weights of `model` that it trains at some time.

    There are at most two parameter groups: with and without weight decay. Each has an `initial_lr`, that of the head,
    which `set_learning_rate` multiplies. With a `layer_decay` below 1 the layers below the head take shorter steps; see
    `scale_steps`. Layers of `freeze` are left out, so that they have no state and no weight decay.

    Raises:
        UserError: the model has too few layer groups for `freeze`.
    """
    layers = layer_groups(model)
    trained = layers[never_trained(recipe, len(layers)) :]
    names = {name for group in trained for name in group}
    parameters = [parameter for name, parameter in model.named_parameters() if name in names]
    optimizer = OPTIMIZERS[recipe.optimizer](recipe, _parameter_groups(recipe, parameters))
    below_head = list(enumerate(reversed(trained)))[1:]
    if recipe.layer_decay != 1 and below_head:
        factors = {name: recipe.layer_decay**depth for depth, group in below_head for name in group}
        scale_steps(optimizer, list(map(model.get_parameter, factors)), list(factors.values()))
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set each group's learning rate to `factor` of its highest."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


@contextlib.contextmanager
def learning_rate_on_device(optimizer: torch.optim.Optimizer, factor: Tensor) -> Iterator[None]:
    """A context in which the learning rate is a tensor, as a captured CUDA graph needs it; see `set_learning_rate`.

    Args:
        optimizer: fused.
        factor: float32 (), on the device of the weights.
    """
    # Adam refuses to be captured without this mark, and warns of it outside of a capture.
    capturing = factor.is_cuda and torch.cuda.is_current_stream_capturing()
    before: list[dict[str, float | bool | Tensor]]
    before = [{name: group[name] for name in ("lr", "capturable") if name in group} for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = factor * group["initial_lr"]
        if "capturable" in group:
            group["capturable"] = capturing
    try:
        yield
    finally:
        for group, values in zip(optimizer.param_groups, before, strict=True):
            group |= values


def scale_steps(optimizer: torch.optim.Optimizer, parameters: list[Tensor], factors: list[float]) -> None:
    """Multiply every step of some parameters: a learning rate for each of them without a parameter group for each.

    The step of Adam, AdamW and SGD is proportional to the learning rate, weight decay included. So all parameters take
    the step of the full rate, and the step of these is then scaled down. A group for each learning rate would launch
    the optimizer's kernels for each of them: MobileNetV2 has 28 layer groups.

    Args:
        optimizer: of the parameters.
        parameters: whose steps to scale.
        factors: one for each parameter.
    """
    before: list[Tensor] = []

    @torch.no_grad()
    def keep(*_: object) -> None:
        if not before:
            before.extend(torch.empty_like(parameter) for parameter in parameters)
        torch._foreach_copy_(before, parameters)

    @torch.no_grad()
    def scale(*_: object) -> None:
        torch._foreach_sub_(parameters, before)
        torch._foreach_mul_(parameters, factors)
        torch._foreach_add_(parameters, before)

    optimizer.register_step_pre_hook(keep)
    optimizer.register_step_post_hook(scale)


def _parameter_groups(recipe: Recipe, parameters: Iterable[nn.Parameter]) -> ParameterGroups:
    """Parameters with the same weight decay, together."""
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in parameters:
        groups.setdefault(recipe.weight_decay if parameter.ndim > 1 else 0.0, []).append(parameter)
    return [
        {"params": members, "initial_lr": recipe.learning_rate, "lr": recipe.learning_rate, "weight_decay": decay}
        for decay, members in groups.items()
    ]
