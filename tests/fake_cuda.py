"""CUDA tensors without a GPU: shapes, dtypes and devices are right, and what would make the host wait is an error.

torch's `FakeTensorMode` makes tensors that are on a CUDA device for everybody who asks, and hold no values. On top of
it, `FakeCuda` refuses whatever on a real device would wait for it. Tensors on the CPU stay real.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

aten = torch.ops.aten

CUDA = torch.device("cuda", 0)

_COPIES = {aten._to_copy.default, aten.copy_.default}
_INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
# `x[0] = 1.0` fills with a tensor without dimensions, whose value is read on the host, where it is.
_TAKES_HOST_SCALARS = {aten.fill_.Tensor, *_INDEXING}
# torch has no fake kernel for it. It writes into its arguments only.
_WITHOUT_FAKES = ("aten::_fused_sgd_",)


class WaitsError(AssertionError):
    """On a real device the host would wait here."""


class FakeCuda(TorchDispatchMode):
    """Finds what waits for a CUDA device, or copies between it and the host.

    That is: reading a value (`.item()`, `bool`, `.tolist()`), a shape that depends on values (boolean masks,
    `nonzero`), a copy from pageable memory (`torch.tensor(x, device="cuda")`, `.to("cuda")`), a copy to the host
    (`.cpu()`), and tensors of both devices in one operation. Constants without dimensions on the CPU count too:
    torch accepts them, but some operators copy them to the device, and a CUDA graph would keep their first value.

    Attributes:
        waits: what was found within `waiting_allowed`. There a value that is read is 0; elsewhere it is an error.
    """

    def __init__(self, fake: FakeTensorMode) -> None:
        super().__init__()
        self.waits: list[str] = []
        self._fake = fake
        self._strict = True
        self._pinned: list[torch.UntypedStorage] = []

    @contextlib.contextmanager
    def waiting_allowed(self) -> Iterator[list[str]]:
        """For what is done once: making a model, reading results. Gives the list of what waited in there."""
        self._strict, self.waits = False, []
        try:
            yield self.waits
        finally:
            self._strict = True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = list(_tensors((*args, *kwargs.values())))
        target = torch.device(kwargs.get("device") or "cpu").type
        if target == "cpu" and not any(isinstance(tensor, FakeTensor) for tensor in tensors):
            return self._on_the_host(func, args, kwargs)
        self._check(func, args, kwargs, tensors)
        if func is aten._local_scalar_dense.default:
            return 0.0 if tensors[0].is_floating_point() else 0
        if func._schema.name in _WITHOUT_FAKES:
            self._check_lists(func, args)
            return None
        if not all(isinstance(tensor, FakeTensor) for tensor in tensors):
            args, kwargs = tree_map(self._as_fake, (tuple(args), kwargs))
        return func(*args, **kwargs)

    def _on_the_host(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Page-locked tensors are ordinary ones that are remembered."""
        with unset_fake_temporarily():
            if func is aten.is_pinned.default:
                return self._is_pinned(args[0])
            pinned = func is aten._pin_memory.default or kwargs.pop("pin_memory", False)
            out = args[0].clone() if func is aten._pin_memory.default else func(*args, **kwargs)
        if pinned:
            self._pinned.append(out.untyped_storage())
        return out

    def _is_pinned(self, tensor: Tensor) -> bool:
        return any(tensor.untyped_storage().data_ptr() == storage.data_ptr() for storage in self._pinned)

    def _as_fake(self, value: Any) -> Any:
        real = isinstance(value, Tensor) and not isinstance(value, FakeTensor)
        return self._fake.from_tensor(value) if real else value

    def _waits(self, what: str) -> None:
        if self._strict:
            raise WaitsError(what)
        self.waits.append(what)

    def _check(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], tensors: list[Tensor]) -> None:
        if func in _COPIES:
            self._check_copy(func, args, kwargs)
            return
        devices = {tensor.device.type for tensor in tensors}
        if torch.Tag.data_dependent_output in func.tags:
            if "cuda" in devices:  # and not on the host, after a copy that was noted
                self._waits("a value is read")
        elif func in _INDEXING:
            # torch turns `x[mask] = 1.0` into `masked_fill_`; any other mask has to be counted first.
            scalar = len(args) > 2 and args[2].device.type == "cpu" and args[2].ndim == 0
            indices = [index for index in args[1] if index is not None]
            if not scalar and any(index.dtype in (torch.bool, torch.uint8) for index in indices):
                self._waits(f"{func} with a mask")
            devices = {tensor.device.type for tensor in (args[0], *indices)}
        elif torch.Tag.dynamic_output_shape in func.tags:
            self._waits(f"the shape of what {func} gives")
        if len(devices) > 1 and func not in _TAKES_HOST_SCALARS - _INDEXING:
            self._waits(f"{func} of tensors on both devices")

    def _check_copy(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        if func is aten.copy_.default:
            target, source = args[0].device.type, args[1]
            non_blocking = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
        else:
            source, target = args[0], torch.device(kwargs.get("device") or args[0].device).type
            non_blocking = kwargs.get("non_blocking", False)
        if target == source.device.type:
            return
        if target == "cpu" or not non_blocking or not self._is_pinned(source):
            self._waits(f"a copy of {tuple(source.shape)} from {source.device.type} to {target}")

    def _check_lists(self, func: Any, args: Sequence[Any]) -> None:
        """What belongs together has the same shape, as torch's kernel checks."""
        lists = [argument for argument in args if isinstance(argument, list | tuple) and argument]
        for together in zip(*lists, strict=True):
            assert len({(tensor.shape, tensor.dtype) for tensor in together}) == 1, func


def _tensors(values: Sequence[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def backward(loss: Tensor, gradient: Tensor | None = None, **_: object) -> None:
    """`Tensor.backward`, whose engine has a thread for each device; here there is none.

    The nodes of the graph are called as they are. Only their order is made here.
    """
    with torch.no_grad():
        gradient = torch.ones_like(loss) if gradient is None else gradient
        waiting: dict[Any, list[Tensor | None]] = {loss.grad_fn: [gradient]}
        for node in _in_order(loss.grad_fn):
            given = waiting.pop(node, None)
            if given is None:
                continue
            if hasattr(node, "variable"):  # a leaf
                leaf = node.variable
                leaf.grad = given[0] if leaf.grad is None else leaf.grad.add_(given[0])
                continue
            results = node(*given)
            results = results if isinstance(results, tuple) else (results,)
            for (following, place), result in zip(node.next_functions, results, strict=True):
                if following is None or result is None:
                    continue
                expected = following._input_metadata[place]
                assert result.device == expected.device
                # As torch's engine does with the gradients of what was broadcast or cast.
                result = result.sum_to_size(expected.shape).to(expected.dtype)
                inputs = waiting.setdefault(following, [None] * len(following._input_metadata))
                earlier = inputs[place]
                inputs[place] = result if earlier is None else earlier + result


def _in_order(root: Any) -> list[Any]:
    """The nodes of a graph, each before those that it passes gradients to."""
    ordered: list[Any] = []
    seen: set[Any] = set()
    stack = [(root, False)]
    while stack:
        node, left = stack.pop()
        if left:
            ordered.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [(following, False) for following, _ in node.next_functions if following is not None]
    return ordered[::-1]


def converted(module: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """`Module._apply` with new parameters; torch would swap the insides of the old ones, which it can't of fakes."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(change(parameter.detach()), parameter.requires_grad)
        for name, value in part._buffers.items():
            part._buffers[name] = None if value is None else change(value)
    return module


def copied(tensor: Tensor, memo: dict[int, Any]) -> Tensor:
    """`Tensor.__deepcopy__` without a look at the memory, of which a fake tensor has none."""
    if id(tensor) not in memo:
        new = tensor.detach().clone()
        memo[id(tensor)] = nn.Parameter(new, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new
    copy: Tensor = memo[id(tensor)]
    return copy


@contextlib.contextmanager
def fake_cuda() -> Iterator[FakeCuda]:
    """In here tensors may be on `cuda`, and waiting for them is a `WaitsError`.

    What it does not show: values, numerical errors, races between streams, and what Inductor compiles.
    """
    with pytest.MonkeyPatch.context() as patch, FakeTensorMode() as fake, FakeCuda(fake) as mode:
        # Without a device torch leaves autocast and the gradient scaler out.
        patch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
        patch.setattr("torch.cuda.is_bf16_supported", lambda *_, **__: True)
        patch.setattr(Tensor, "backward", backward)
        patch.setattr(Tensor, "__deepcopy__", copied)
        patch.setattr(nn.Parameter, "__deepcopy__", copied)
        patch.setattr(nn.Module, "_apply", converted)
        yield mode
