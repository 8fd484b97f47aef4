"""A batch distributed over threads: the same pixels for every number of them, and unchanged settings of the caller."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from food101_fast import transforms as T
from food101_fast.transforms.threads import for_each
from tests.transforms.cases import CASES, Case

THREADS = 3


@pytest.fixture(autouse=True)
def several_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


def photos(count: int = 7, size: int = 200) -> Tensor:
    """Large enough (over 32,768 pixels) for torch to share a sum among OpenMP threads, which changes its rounding."""
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_pixels_do_not_depend_on_the_number_of_threads(case: Case) -> None:
    images, transform = photos(), case.make()
    torch.manual_seed(0)
    params = transform.make_params([images])
    results = []
    for threads in (1, 2, THREADS):
        torch.set_num_threads(threads)
        results.append(transform.transform(images, params))
    for one in range(len(images)):  # nor on the other images
        alone = transform.transform(
            images[one : one + 1], {name: value[one : one + 1] for name, value in params.items()}
        )
        assert torch.equal(alone[0], results[0][one])
    assert all(torch.equal(result, results[0]) for result in results)


def test_each_number_comes_once_and_in_one_openmp_thread() -> None:
    lock, calls = threading.Lock(), []
    # None may end before all have started, so that three threads are used.
    together = threading.Barrier(THREADS, timeout=60)

    def work(number: int) -> None:
        with lock:
            calls.append((number, threading.get_ident(), torch.get_num_threads()))
        if number < THREADS:
            together.wait()

    for_each(100, work)
    assert sorted(number for number, _, _ in calls) == list(range(100))
    assert len({thread for _, thread, _ in calls}) == THREADS
    assert {openmp for _, _, openmp in calls} == {1}
    assert torch.get_num_threads() == THREADS


@pytest.mark.parametrize("alone", [False, True])
def test_the_first_error_is_raised_and_changes_nothing(alone: bool) -> None:
    done = []

    def work(number: int) -> None:
        if number == 5:
            raise ZeroDivisionError("of image 5")
        done.append(number)

    with pytest.raises(ZeroDivisionError, match="of image 5"):
        for_each(10_000, work, alone=alone)
    finished = len(done)
    assert finished < 10_000
    assert torch.get_num_threads() == THREADS
    for_each(10, done.append, alone=alone)
    assert sorted(done[finished:]) == list(range(10))  # and nobody still works on what has failed


def test_many_callers_at_once() -> None:
    """Also more than there are helpers, and from inside a helper."""
    images, transform = photos(9, 40), T.GaussianBlur(3, sigma=1.0)
    expected = transform(images)
    with ThreadPoolExecutor(8) as callers:
        results = list(callers.map(lambda _: transform(images), range(40)))
    assert all(torch.equal(result, expected) for result in results)
    nested: list[Tensor] = []
    for_each(20, lambda _: nested.append(transform(images)))
    assert all(torch.equal(result, expected) for result in nested)


def blurred(images: Tensor, sender: Any) -> None:
    """In a process of its own."""
    sender.send_bytes(T.GaussianBlur(3, sigma=1.0)(images).numpy().tobytes())


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_makes_its_own_threads() -> None:
    images = photos(9, 40)
    expected = T.GaussianBlur(3, sigma=1.0)(images)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=blurred, args=(images, sender))
    child.start()
    try:
        assert receiver.poll(60), "it hangs"
        assert receiver.recv_bytes() == expected.numpy().tobytes()
        child.join(60)
        assert child.exitcode == 0
    finally:
        child.kill()


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_modes_of_the_caller_hold_in_all_threads(mode: Any) -> None:
    images, transform = photos(9, 40), T.ColorJitter(0.5, 0.5, 0.5, 0.1)
    torch.manual_seed(0)
    params = transform.make_params([images])
    with mode():
        out = transform.transform(images, params)
        out.add_(0)  # is refused if it was made in another mode
    assert out.is_inference() == (mode is torch.inference_mode)
    assert torch.equal(out, transform.transform(images, params))


def test_gradients_flow_and_autocast_holds() -> None:
    images, transform = photos(9, 40).requires_grad_(), T.GaussianBlur(3, sigma=1.0)
    transform(images).sum().backward()
    assert images.grad is not None
    assert torch.allclose(images.grad.mean(), torch.ones(()), atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        shared = transform(images.detach())
        torch.set_num_threads(1)
        assert torch.equal(transform(images.detach()), shared)


def assert_runs(code: str) -> None:
    """In a Python process of its own, which ends without a word."""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_no_thread_is_started_before_it_is_needed() -> None:
    code = (
        "import threading, torch; from food101_fast import transforms as T; images = torch.zeros(4, 3, 9, 9)\n"
        "def names(): return [t.name for t in threading.enumerate() if t.name.startswith('transforms')]\n"
        "torch.set_num_threads(1); T.GaussianBlur(3)(images); assert not names()\n"
        "torch.set_num_threads(2); T.RandomVerticalFlip()(images); assert not names()\n"
        "T.GaussianBlur(3)(images); assert len(names()) == 1, names()\n"
        "import atexit; atexit.register(lambda: T.GaussianBlur(3)(images))"
    )
    assert_runs(code)


@pytest.mark.skipif(sys.platform != "linux", reason="counts the threads that /proc shows")
def test_no_operator_starts_threads_of_its_own_in_a_helper() -> None:
    """Matrix products of MKL did. With more threads than cores the whole process's OpenMP is slow for good."""
    code = (
        "import os, torch; from food101_fast import transforms as T\n"
        "torch.set_num_threads(2); images = torch.zeros(8, 3, 200, 200); images.add(1)\n"
        "def threads(): return len(os.listdir('/proc/self/task'))\n"
        "T.GaussianBlur(3)(images); before = threads()\n"
        "for name in T.PRESETS:\n"
        "    preset = T.train_preset(name, 160, num_classes=3)\n"
        "    preset(images, torch.zeros(8, dtype=torch.int64), seed=0, epoch=0, ids=torch.arange(8))\n"
        "for transform in (T.RandomPerspective(p=1.0), T.RandomRotation(9), T.RandAugment(), T.TrivialAugmentWide()):\n"
        "    transform((images * 255).to(torch.uint8))\n"
        "assert threads() == before, (threads(), before)"
    )
    assert_runs(code)
