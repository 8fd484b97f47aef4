"""A trained run as files for other programs: a torch.export program, ONNX, safetensors and a model card."""

from food101_fast.export.job import export

__all__ = ["export"]
