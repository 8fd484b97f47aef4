"""On a CUDA device: the parameters of the CPU, and its pixels."""

from __future__ import annotations

import pytest
import torch

from food101_fast.transforms import PRESETS, train_preset
from tests.transforms.cases import CASES, Case
from tests.transforms.test_exactness import assert_close
from tests.transforms.test_presets import batch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_the_same_parameters_and_pixels(case: Case) -> None:
    transform = case.make()
    images, uniform = batch(8), torch.rand(8, transform.draws)
    params = transform.params_from(uniform, 40, 40)
    there = transform.params_from(uniform.cuda(), 40, 40)
    for name, value in params.items():
        assert torch.allclose(there[name].cpu().double(), value.double(), atol=1e-5), name
    out = transform.transform(images.cuda(), {name: value.cuda() for name, value in params.items()})
    assert_close(out.cpu(), transform.transform(images, params), images, case.tolerance)


@pytest.mark.parametrize("name", PRESETS)
def test_a_compiled_preset_waits_for_nothing(name: str) -> None:
    preset = train_preset(name, 24, num_classes=5).cuda()
    images, ids = batch(6).cuda(), torch.arange(6).cuda()
    epoch = torch.zeros((), dtype=torch.int64, device="cuda")
    compiled = torch.compile(preset, fullgraph=True)
    expected, _ = preset(images, ids % 5, seed=0, epoch=epoch, ids=ids)
    compiled(images, ids % 5, seed=0, epoch=epoch, ids=ids)
    torch.cuda.set_sync_debug_mode("error")
    try:
        got, _ = compiled(images, ids % 5, seed=0, epoch=epoch, ids=ids)
        preset(images, ids % 5, seed=0, epoch=epoch, ids=ids)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert ((got - expected).abs() > (4.5 / 255 / 0.225)).float().mean() <= 0.01
