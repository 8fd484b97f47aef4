"""Every table and figure of the pages by its name; each is a function of what is in benchmarks/results."""

from __future__ import annotations

from accuracy_blocks import ACCURACY_BLOCKS
from balance_blocks import BALANCE_BLOCKS
from distillation_blocks import DISTILLATION_BLOCKS
from finetune_blocks import FINETUNE_BLOCKS
from gpu_blocks import GPU_BLOCKS
from headline_blocks import HEADLINE_BLOCKS
from peer_blocks import PEER_BLOCKS
from training_blocks import TRAINING_BLOCKS
from transform_blocks import TRANSFORM_BLOCKS

BLOCKS = (
    PEER_BLOCKS
    | TRANSFORM_BLOCKS
    | TRAINING_BLOCKS
    | HEADLINE_BLOCKS
    | GPU_BLOCKS
    | BALANCE_BLOCKS
    | FINETUNE_BLOCKS
    | DISTILLATION_BLOCKS
    | ACCURACY_BLOCKS
)
