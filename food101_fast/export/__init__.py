"""A trained run in, files for other programs out: a torch.export program, ONNX, safetensors and a model card."""

from food101_fast.export.job import export

__all__ = ["export"]
