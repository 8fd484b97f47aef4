"""The mathematics of a probe: its classifier is scikit-learn's, and its neighbors vote as in the plain way."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression as SklearnRegression
from torch import nn

from food101_fast.train.probe import linear, neighbors
from food101_fast.train.probe.linear import Labeled, LogisticRegression


def gaussian(samples: int, classes: int = 4, size: int = 12) -> Labeled:
    """Classes around centers of their own, in features of odd scales, one of them constant."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(samples) % classes
    centers = torch.randn(classes, size, generator=generator)
    points = centers[labels] + 1.5 * torch.randn(samples, size, generator=generator)
    points = points * torch.logspace(-2, 2, size) + torch.linspace(-5, 5, size)
    points[:, 3] = 7.0
    return Labeled(features=points.float(), labels=labels)


@pytest.mark.parametrize(("decay", "bias"), [(1.0, True), (0.01, True), (1e-4, True), (1.0, False)])
def test_the_classifier_is_scikit_learns(decay: float, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On standardized features; also if it comes from another weight decay, and is computed in blocks."""
    data = gaussian(203)
    features64 = data.features.double()
    deviation = features64.std(dim=0, correction=0) if bias else features64.square().mean(dim=0).sqrt()
    deviation[3] = 1.0 if bias else 7.0
    standardized = ((features64 - features64.mean(dim=0) * bias) / deviation).numpy()
    labels = data.labels.numpy()
    regression = SklearnRegression(C=1 / (decay * 203), tol=1e-9, max_iter=10_000, fit_intercept=bias)
    regression.fit(standardized, labels)
    monkeypatch.setattr(linear, "BLOCK_ROWS", 64)
    ours = LogisticRegression(data, 4, bias=bias)
    ours.fit(10 * decay)
    found, iterations = ours.fit(decay)
    logits = data.features @ found.weight.T + found.bias
    probabilities = logits.double().softmax(dim=1)
    np.testing.assert_allclose(probabilities.numpy(), regression.predict_proba(standardized), atol=5e-3)

    def objective(weight: np.ndarray, of_labels: np.ndarray) -> float:
        return float(-np.log(of_labels).mean() + decay / 2 * np.square(weight).sum())

    rows = np.arange(203)
    theirs = objective(regression.coef_, regression.predict_proba(standardized)[rows, labels])
    scaled = (found.weight.double() * deviation).numpy()
    assert objective(scaled, probabilities.numpy()[rows, labels]) == pytest.approx(theirs, abs=1e-5)
    assert 0 < iterations <= 200
    assert bias == bool(found.bias.abs().max() > 0)


def test_scores_are_those_of_the_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "BLOCK_ROWS", 50)
    data = gaussian(120, classes=8)
    found, _ = LogisticRegression(data, 8).fit(0.1)
    logits = data.features @ found.weight.T + found.bias
    scores = linear.scores(found, data)
    assert scores.loss == pytest.approx(nn.functional.cross_entropy(logits, data.labels).item(), rel=1e-5)
    assert scores.top1 == pytest.approx((logits.argmax(1) == data.labels).double().mean().item())
    ranks = (logits > logits.gather(1, data.labels[:, None])).sum(dim=1)
    assert scores.top5 == pytest.approx((ranks < 5).double().mean().item())


@pytest.mark.parametrize("samples", [150, 7])
def test_neighbors_vote_by_their_cosine(samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the plain way; with fewer images than neighbors too."""
    monkeypatch.setattr(linear, "BLOCK_ROWS", 40)
    monkeypatch.setattr(neighbors, "BLOCK_ROWS", 40)
    monkeypatch.setattr(neighbors, "_SIMILARITIES", 40 * 9)
    voters, asked = gaussian(samples), gaussian(60)
    asked = dataclasses.replace(asked, features=asked.features.flip(0) + 0.1)
    unit = [data.features / data.features.norm(dim=1, keepdim=True) for data in (asked, voters)]
    hits = 0
    for cosines, label in zip(unit[0] @ unit[1].T, asked.labels.tolist(), strict=True):
        votes = [0.0] * 4
        for index in cosines.argsort(descending=True)[:20].tolist():
            votes[int(voters.labels[index])] += float((cosines[index] / 0.07).exp())
        hits += int(np.argmax(votes)) == label
    assert neighbors.knn_top1(voters, asked, 4) == pytest.approx(hits / 60)
