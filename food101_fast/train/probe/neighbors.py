"""Classification by nearest neighbors among the training images' features, which trains nothing."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from food101_fast.train.probe.linear import BLOCK_ROWS, Labeled

NEIGHBORS = 20
_TEMPERATURE = 0.07
_SIMILARITIES = 1 << 26  # that are in memory at a time


@torch.inference_mode()
def knn_top1(train: Labeled, val: Labeled, classes: int, *, neighbors: int = NEIGHBORS) -> float:
    """Top-1 of the classes that the nearest training images vote for, between 0 and 1.

    Nearness is the cosine of the angle between features. A neighbor's vote has the weight exp(cosine / 0.07).

    Source: Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018; the number
    of neighbors is that of Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021.

    Args:
        train: the images that vote.
        val: the images to classify.
        classes: number of classes.
        neighbors: that vote, at most.
    """
    device, hits = val.labels.device, 0
    rows = max(1, _SIMILARITIES // min(len(train.labels), BLOCK_ROWS))
    for first in range(0, len(val.labels), rows):
        queries = functional.normalize(val.features[first : first + rows].to(device), dim=1)
        nearest, labels = _nearest(queries, train, neighbors)
        votes = torch.zeros(len(queries), classes, device=device)
        votes.scatter_add_(1, labels, (nearest / _TEMPERATURE).exp())
        hits += int((votes.argmax(dim=1) == val.labels[first : first + rows]).sum())
    return hits / len(val.labels)


def _nearest(queries: Tensor, train: Labeled, neighbors: int) -> tuple[Tensor, Tensor]:
    """Cosines and labels of the nearest training images of each query, (q, neighbors) each."""
    best = torch.empty(len(queries), 0, device=queries.device)
    labels = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    for features, of_block in train.blocks():
        cosines = queries @ functional.normalize(features, dim=1).T
        best = torch.cat([best, cosines], dim=1)
        labels = torch.cat([labels, of_block.expand(len(queries), -1)], dim=1)
        best, order = best.topk(min(neighbors, best.shape[1]), dim=1)
        labels = labels.gather(1, order)
    return best, labels
