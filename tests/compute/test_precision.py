"""Which precision `auto` stands for."""

from __future__ import annotations

import pytest
import torch

from food101_fast.compute.precision import Precision, chosen_amp, inference_precision


def test_bf16_is_chosen_where_the_processor_multiplies_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    for amx, expected in ((True, "bf16"), (False, "off")):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx, raising=False)
        assert chosen_amp("auto", torch.device("cpu")) == expected
        assert Precision("auto", torch.device("cpu")).name == {"bf16": "bf16", "off": "float32"}[expected]
        assert chosen_amp("auto", torch.device("cuda")) == "fp16"
        assert chosen_amp("off", torch.device("cpu")) == "off"
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    for limit, expected in (("AVX2", "off"), ("avx512_core_bf16", "off"), ("AVX512_CORE_AMX", "bf16"), ("ALL", "bf16")):
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
        assert chosen_amp("auto", torch.device("cpu")) == expected
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    assert chosen_amp("auto", torch.device("cpu")) == "off"


def test_a_trained_model_is_used_in_float32_on_any_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    cpu = torch.device("cpu")
    assert chosen_amp("auto", cpu) == "bf16"
    assert [inference_precision(amp, cpu).name for amp in ("auto", "off", "bf16")] == ["float32", "float32", "bf16"]
