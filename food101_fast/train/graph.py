"""A whole training step as one CUDA graph: the host launches the graph instead of hundreds of kernels.

Small models with small batches are bound by kernel launches: on an H200 a MobileNetV2 at 160 px and batch 128 trained
2.7 to 3.7 times as fast with a graph (benchmarks/results/gpu-h200-1.json and -2.json). A graph needs no compiler, so
that it pays from the first epoch on. But every step must do the same on the same memory: fixed shapes, no operation
that waits for the device, and no Python number that changes from step to step.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from typing import TextIO

import torch
from torch import Tensor

from food101_fast.compute.distributed import World
from food101_fast.errors import UserError
from food101_fast.runs.recipe import Recipe

Results = tuple[Tensor, ...]

# Calls before the capture, in which cuDNN chooses algorithms, and optimizer and scaler allocate their state. The
# examples in torch's documentation of CUDA graphs use three.
_WARM_UP = 3
CALLS_BEFORE_REPLAY = _WARM_UP + 1
"""Calls of a `GraphedFunction` that take longer: those before the capture, and the one with it."""
# The start of torch's warning that the host waits for the device; see torch.cuda.set_sync_debug_mode.
_WAITING = "called a synchronizing CUDA operation"
# The warning when that mode is first set.
_PROTOTYPE = "Synchronization debug mode is a prototype feature"
# Modes of torch.compile that make no graphs of their own.
_MODES = ("default", "max-autotune-no-cudagraphs")


def uses_graph(recipe: Recipe, device: torch.device, world: World) -> bool:
    """Whether to make the steps of a recipe a CUDA graph: with `auto`, wherever that is possible.

    Raises:
        UserError: the recipe wants a graph where it is not possible.
    """
    if recipe.cuda_graph == "auto":
        return device.type == "cuda" and world.size == 1 and (recipe.compile == "off" or recipe.compile_mode in _MODES)
    if recipe.cuda_graph == "on":
        check_graph(recipe, device, world)
    return recipe.cuda_graph == "on"


def check_graph(recipe: Recipe, device: torch.device, world: World) -> None:
    """Check that steps of a recipe can be a CUDA graph.

    Raises:
        UserError: they can't; the message says why, and which flag to leave out.
    """
    if device.type != "cuda":
        raise UserError("--cuda-graph on needs a CUDA device, and this run computes on the CPU; leave the flag out")
    if world.size > 1:
        raise UserError("--cuda-graph on works on one GPU only; leave it out with torchrun")
    if recipe.compile == "on" and recipe.compile_mode not in _MODES:
        raise UserError(
            f"--cuda-graph on cannot be combined with --compile-mode {recipe.compile_mode}, which makes CUDA graphs of "
            "its own; leave one of them out"
        )


class GraphedFunction:
    """A function of tensors that is captured as a CUDA graph after a few normal calls, and then replayed.

    Every call has the function's full effect, including the first ones and the one with the capture.

    Args:
        function: takes the tensors and the numbers of a call, the numbers as tensors (). Shapes and dtypes must be the
            same in every call.

    Attributes:
        obstacle: why the function can't be captured: where the host waited for the device in the last normal call. The
            function is then called without a graph. None if it can be captured.

    Source: PyTorch documentation, "CUDA semantics", section "CUDA Graphs".
    """

    def __init__(self, function: Callable[..., Results]) -> None:
        self._function = function
        self._calls = 0
        self.obstacle: str | None = None
        self._inputs: list[Tensor] = []
        self._replay: Callable[[], Results] | None = None

    def __call__(self, tensors: Sequence[Tensor], numbers: Sequence[float]) -> Results:
        """Call the function.

        Args:
            tensors: on the device; they are copied.
            numbers: an int becomes an int64 (), a float a float32 ().

        Returns:
            The function's results. The next call writes into the same tensors.
        """
        self._load(tensors, numbers)
        self._calls += 1
        if self._replay is not None:
            return self._replay()
        if self._calls < _WARM_UP:
            return on_side_stream(self._run)
        if self._calls == _WARM_UP:
            # A failed capture leaves torch's random generators and allocator unusable. So check before the capture, but
            # after the calls in which cuDNN and allocations make the host wait.
            results, self.obstacle = noting_waits(lambda: on_side_stream(self._run))
            return results
        if self.obstacle is not None:
            return self._run()
        self._replay = capture(self._run)
        return self._replay()

    def _run(self) -> Results:
        return self._function(*self._inputs)

    def _load(self, tensors: Sequence[Tensor], numbers: Sequence[float]) -> None:
        """Copy a call's inputs to the memory that the graph reads, without waiting for the device."""
        if not self._inputs:
            device = tensors[0].device
            self._inputs = [torch.empty_like(tensor) for tensor in tensors]
            for number in numbers:
                dtype = torch.int64 if isinstance(number, int) else torch.float32
                self._inputs.append(torch.zeros((), dtype=dtype, device=device))
        for own, tensor in zip(self._inputs[: len(tensors)], tensors, strict=True):
            if own.shape != tensor.shape:
                raise ValueError(f"a CUDA graph takes one shape, {tuple(own.shape)}, and not {tuple(tensor.shape)}")
            own.copy_(tensor)
        for own, number in zip(self._inputs[len(tensors) :], numbers, strict=True):
            own.fill_(number)


def noting_waits(function: Callable[[], Results]) -> tuple[Results, str | None]:
    """Call a function and check whether the host waited for the device in it. Waits of other threads do not count.

    Returns:
        The function's results, and where the host waited first; None if it did not.
    """
    before, thread = torch.cuda.get_sync_debug_mode(), threading.get_ident()
    waits: list[str] = []

    with warnings.catch_warnings():
        show = warnings.showwarning

        def note(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if _WAITING not in str(message):
                show(message, category, filename, lineno, file, line)
            elif threading.get_ident() == thread:
                waits.append(f"in {filename}, line {lineno}, the host waits for the device")

        warnings.filterwarnings("always", f".*{_WAITING}")
        warnings.filterwarnings("ignore", f".*{_PROTOTYPE}")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            results = function()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return results, waits[0] if waits else None


def on_side_stream(function: Callable[[], Results]) -> Results:
    """Call a function on a side stream; the current stream waits for it."""
    current, side = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(current)
    with torch.cuda.stream(side):
        results = function()
    current.wait_stream(side)
    for result in results:
        result.record_stream(current)
    return results


def capture(function: Callable[[], Results]) -> Callable[[], Results]:
    """Record the kernels that a function queues, without running them.

    Returns:
        A function that runs them and returns the same tensors as `function` did, with new values.
    """
    graph = torch.cuda.CUDAGraph()
    # Meanwhile the loader's threads allocate and copy on streams of their own, outside of the graph.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        results = function()

    def replay() -> Results:
        graph.replay()
        return results

    return replay
