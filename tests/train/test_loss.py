"""Losses against timm, torchvision and formulas; exact over chunks and ranks; nothing in them waits for a GPU."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.data.mixup import mixup_target
from timm.loss import BinaryCrossEntropy as TimmBinaryCrossEntropy
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from food101_fast.errors import UserError
from food101_fast.shards import ShardSet
from food101_fast.train import Hooks, Recipe, train
from food101_fast.train.loss import build_loss, check_counts, class_weights
from food101_fast.train.step import TrainStep
from tests.fake_cuda import CUDA, fake_cuda
from tests.train import test_cuda_graph
from tests.train.launch import Job, plain_model, start
from tests.train.test_cuda_graph import GRAPHED, device  # noqa: F401
from tests.train.test_resume import notes_of
from tests.train.test_step import CPU, SGD, batch, small_model

COUNTS = (50, 5, 20, 1)
N = 12
KINDS: dict[str, dict[str, Any]] = {
    "cross-entropy": {},
    "bce": {"loss": "bce"},
    "focal": {"loss": "focal"},
    "weighted cross-entropy": {"class_balance": "weights"},
    "weighted bce": {"loss": "bce", "class_balance": "weights", "class_weights": "effective"},
    "weighted focal": {"loss": "focal", "class_balance": "weights", "focal_gamma": 0.5},
    "adjusted cross-entropy": {"class_balance": "logit-adjust"},
    "adjusted focal": {"loss": "focal", "class_balance": "logit-adjust", "logit_tau": 0.5},
}


def made(**fields: Any) -> nn.Module:
    return build_loss(Recipe(**fields), COUNTS)


def logits() -> Tensor:
    return 3 * torch.randn(N, len(COUNTS), generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def labels(soft: bool) -> Tensor:
    """Numbers of classes, or mixtures as MixUp gives them."""
    hard = torch.arange(N) % len(COUNTS)
    shares = functional.one_hot(hard, len(COUNTS)).double()
    return 0.7 * shares + 0.3 * shares.roll(1, 0) if soft else hard


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("soft", [False, True])
def test_the_default_is_the_same_call_of_torch_as_ever(soft: bool, smoothing: float) -> None:
    """To the bit, in every dtype."""
    for dtype in (torch.float32, torch.bfloat16):
        given = logits().to(dtype)
        target = labels(soft).to(dtype) if soft else labels(soft)
        expected = functional.cross_entropy(given, target, label_smoothing=smoothing)
        assert torch.equal(build_loss(Recipe(label_smoothing=smoothing))(given, target), expected)


@pytest.mark.parametrize("threshold", [None, 0.2])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_cross_entropy_is_timms(smoothing: float, threshold: float | None) -> None:
    theirs = TimmBinaryCrossEntropy(smoothing=smoothing, target_threshold=threshold)
    ours = build_loss(Recipe(loss="bce", label_smoothing=smoothing, bce_threshold=threshold))
    torch.testing.assert_close(ours(logits(), labels(False)), theirs(logits(), labels(False)))
    # timm smooths the labels when it mixes them: each sample with the one as far from the end.
    mixed = mixup_target(labels(False), len(COUNTS), lam=0.7, smoothing=smoothing).double()
    shares = functional.one_hot(labels(False), len(COUNTS)).double()
    ours_mixed = ours(logits(), 0.7 * shares + 0.3 * shares.flip(0))
    torch.testing.assert_close(ours_mixed, theirs(logits(), mixed), rtol=1e-6, atol=1e-7)


def test_focal_of_two_classes_is_torchvisions() -> None:
    """The softmax of (0, z) is the sigmoid of z."""
    z, target = logits()[:, 0], torch.arange(N) % 2
    two = torch.stack([torch.zeros_like(z), z], dim=1)
    for gamma in (0.5, 1.0, 2.0, 5.0):
        expected = sigmoid_focal_loss(z, target.double(), alpha=-1, gamma=gamma, reduction="mean")
        torch.testing.assert_close(build_loss(Recipe(loss="focal", focal_gamma=gamma))(two, target), expected)


@pytest.mark.parametrize("soft", [False, True])
def test_focal_follows_its_formula_and_is_cross_entropy_without_gamma(soft: bool) -> None:
    weights = class_weights(COUNTS, "inverse", 0.9)
    p = logits().softmax(dim=1)
    shares = labels(True) if soft else functional.one_hot(labels(False), len(COUNTS)).double()
    shares = 0.9 * shares + 0.1 / len(COUNTS)
    expected = -(weights * shares * (1 - p) ** 3 * p.log()).sum(dim=1).mean()
    loss = made(loss="focal", focal_gamma=3.0, label_smoothing=0.1, class_balance="weights")
    torch.testing.assert_close(loss(logits(), labels(soft)), expected)
    without = made(loss="focal", focal_gamma=0.0, label_smoothing=0.1, class_balance="weights")
    same = made(label_smoothing=0.1, class_balance="weights").double()
    torch.testing.assert_close(without(logits(), labels(soft)), same(logits(), labels(soft)))


@pytest.mark.parametrize("soft", [False, True])
def test_weighted_cross_entropy_is_torchs_but_for_the_divisor(soft: bool) -> None:
    weights = class_weights(COUNTS, "inverse", 0.9).double()
    loss = made(class_balance="weights", label_smoothing=0.1).double()
    summed = functional.cross_entropy(logits(), labels(soft), weights, reduction="sum", label_smoothing=0.1)
    torch.testing.assert_close(loss(logits(), labels(soft)), summed / N)


def test_weighted_binary_cross_entropy_weights_samples() -> None:
    weights = class_weights(COUNTS, "effective", 0.999)
    each = functional.binary_cross_entropy_with_logits(logits(), labels(True), reduction="none").mean(dim=1)
    expected = (each * (labels(True) * weights).sum(dim=1)).mean()
    loss = made(loss="bce", class_balance="weights", class_weights="effective")
    torch.testing.assert_close(loss(logits(), labels(True)), expected)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_right_and_finite_everywhere(kind: str, soft: bool) -> None:
    loss = made(**KINDS[kind], label_smoothing=0.1).double()
    assert torch.autograd.gradcheck(lambda given: loss(given, labels(soft)), logits().requires_grad_())
    plain = made(**KINDS[kind])
    for size in (1e2, 1e4):  # probabilities that are 0 or 1 in float32
        extreme = (size * functional.one_hot(labels(False), len(COUNTS)).float()).requires_grad_()
        for target in (labels(soft), labels(soft).roll(1, 0)):
            (gradient,) = torch.autograd.grad(plain(extreme, target), extreme)
            assert gradient.isfinite().all()


def test_targets_above_the_threshold_are_whole() -> None:
    """Both classes of a mixture count fully, and a threshold between them leaves one."""
    mixed = torch.tensor([[0.7, 0.3, 0.0]])
    given = torch.tensor([[0.3, -0.2, 0.5]])
    for threshold, target in ((0.2, [[1.0, 1.0, 0.0]]), (0.5, [[1.0, 0.0, 0.0]])):
        loss = build_loss(Recipe(loss="bce", bce_threshold=threshold))(given, mixed)
        expected = functional.binary_cross_entropy_with_logits(given, torch.tensor(target))
        torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("how", ["inverse", "effective"])
def test_weights_have_the_mean_one_over_the_images(how: Any) -> None:
    counts = torch.tensor([500.0, 3.0, 0.0, 40.0])
    weights = class_weights([500, 3, 0, 40], how, 0.99)
    assert (weights * counts).sum().item() == pytest.approx(counts.sum().item(), rel=1e-6)
    assert weights[2] == 0
    assert weights[1] > weights[3] > weights[0] > 0
    torch.testing.assert_close(class_weights([7, 7, 7], how, 0.99), torch.ones(3))


def test_effective_numbers_are_those_of_the_paper() -> None:
    """Between all alike and inverse; at beta 0.9 two images count as 1.9 and ten as 6.51."""
    weights = class_weights([2, 10], "effective", 0.9)
    assert (weights[0] / weights[1]).item() == pytest.approx((1 - 0.9**10) / (1 - 0.9**2), rel=1e-6)
    torch.testing.assert_close(class_weights(COUNTS, "effective", 0.0), torch.ones(4))
    near = class_weights(COUNTS, "effective", 1 - 1e-9)
    torch.testing.assert_close(near, class_weights(COUNTS, "inverse", 0.5), rtol=1e-5, atol=0)


def test_inverse_weights_are_scikit_learns() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    numbers = np.repeat(np.arange(4), COUNTS)
    expected = compute_class_weight("balanced", classes=np.arange(4), y=numbers)
    torch.testing.assert_close(class_weights(COUNTS, "inverse", 0.5).double(), torch.from_numpy(expected))


def test_adjusted_logits_are_learned_without_the_frequencies() -> None:
    """On images that say nothing, in the shares of training, the best plain logits are all equal."""
    target = torch.arange(len(COUNTS)).repeat_interleave(torch.tensor(COUNTS))
    given = torch.zeros(len(target), len(COUNTS), requires_grad=True)
    made(class_balance="logit-adjust")(given, target).backward()
    assert given.grad is not None
    assert given.grad.sum(dim=0).abs().max() < 1e-6
    (plain,) = torch.autograd.grad(build_loss(Recipe())(given, target), given)
    assert plain.sum(dim=0).abs().max() > 0.1
    shift = 0.5 * (torch.tensor(COUNTS) / sum(COUNTS)).double().log()
    expected = functional.cross_entropy(logits() + shift, labels(False))
    torch.testing.assert_close(made(class_balance="logit-adjust", logit_tau=0.5)(logits(), labels(False)), expected)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_chunks_of_any_classes_add_up_to_the_whole_batch(kind: str, soft: bool) -> None:
    loss, order = made(**KINDS[kind], label_smoothing=0.1).double(), labels(False).argsort()
    given, target = logits()[order], labels(soft)[order]
    for chunks in (2, 3, 4, N):
        pairs = zip(given.chunk(chunks), target.chunk(chunks), strict=True)
        mean = torch.stack([loss(*pair) for pair in pairs]).mean()
        torch.testing.assert_close(mean, loss(given, target))
    if kind == "weighted cross-entropy" and not soft:  # torch's own mean would not
        weights = class_weights(COUNTS, "inverse", 0.5).double()
        parts = zip(given.chunk(2), target.chunk(2), strict=True)
        theirs = torch.stack([functional.cross_entropy(*part, weights) for part in parts]).mean()
        assert abs(theirs - functional.cross_entropy(given, target, weights)) > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_widened(kind: str) -> None:
    """Logits of mixed precision, with its context still on, as in a step."""
    loss = made(**KINDS[kind], label_smoothing=0.1)
    given = logits().bfloat16()
    for soft in (False, True):
        target = labels(soft).float() if soft else labels(soft)
        with torch.autocast("cpu", torch.bfloat16):
            low = loss(given, target)
        torch.testing.assert_close(
            low.float(), loss(given.float(), target), rtol=2e-2 if kind == "cross-entropy" else 1e-6, atol=1e-6
        )


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "cross-entropy"])
def test_a_step_does_not_depend_on_accumulation(kind: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    results = []
    for accumulate in (1, 4):
        recipe = dataclasses.replace(SGD, accumulate=accumulate, label_smoothing=0.1, **KINDS[kind])
        step = TrainStep(recipe, copy.deepcopy(model), CPU, 3, class_counts=(90, 9, 1))
        torch.manual_seed(3)
        results.append((step(batch(), 0), [p.detach() for p in step.model.parameters()]))
    assert results[0][0][0].item() == pytest.approx(results[1][0][0].item(), rel=1e-6)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-5, atol=1e-6)


def test_ranks_add_up_to_one(tiny_path: Path, tmp_path: Path) -> None:
    """Gradients of the first steps with class weights, on one rank and on two."""
    recipe = dataclasses.replace(
        SGD, epochs=1, batch_size=6, loss="focal", class_balance="weights", preset="baseline", patience=None
    )
    for ranks in (1, 2):
        notes = tmp_path / f"{ranks}.jsonl"
        job = Job(shards=tiny_path, run=tmp_path / f"run-{ranks}", recipe=recipe, plain=True, notes=notes)
        assert start(job, ranks) == [0] * ranks
    one, two = (notes_of(tmp_path / f"{ranks}.jsonl") for ranks in (1, 2))
    for step in range(3):
        assert one[step][0] == two[step][0]
        np.testing.assert_allclose(one[step][1], two[step][1], atol=1e-5, rtol=0)
        assert np.abs(one[step][1]).max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_no_loss_waits_for_the_device(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it take anything from the host in a step, so that it can be captured."""
    monkeypatch.setattr("torch.cuda.is_current_stream_capturing", lambda: True)
    recipe = dataclasses.replace(
        SGD, **KINDS[kind], amp="fp16", label_smoothing=0.1, accumulate=2, compile="off", cuda_graph="off"
    )
    with fake_cuda() as mode:
        with mode.waiting_allowed():
            step = TrainStep(recipe, small_model(), CUDA, 3, class_counts=(90, 9, 1))
            step.train_mode()
        given = torch.zeros(8, 3, 32, 32, device=CUDA).contiguous(memory_format=torch.channels_last)
        for target in (torch.arange(8, device=CUDA) % 3, torch.zeros(8, 3, device=CUDA)):
            loss, _ = step.update(given, target)
            assert loss.device == CUDA


@pytest.mark.parametrize("kind", ["weighted bce", "adjusted focal"])
def test_a_graphed_step_is_the_eager_one(kind: str, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    recipe = dataclasses.replace(GRAPHED, **KINDS[kind], amp="off")
    monkeypatch.setattr(test_cuda_graph, "TrainStep", lambda *args: TrainStep(*args, class_counts=(90, 9, 1)))
    eager = test_cuda_graph.trained(dataclasses.replace(recipe, cuda_graph="off"), device)
    graphed = test_cuda_graph.trained(recipe, device)
    tolerance = 1e-4 if device.type == "cpu" else 0.05
    assert graphed[0] == pytest.approx(eager[0], rel=tolerance, abs=tolerance)


def test_validation_is_cross_entropy_whatever_training_minimizes(tiny_shards: ShardSet, tmp_path: Path) -> None:
    """Of weights that do not change; and accuracy in training is that of plain logits."""
    recipe = dataclasses.replace(SGD, epochs=1, learning_rate=1e-30, batch_size=16)
    rows = {}
    for kind in ("cross-entropy", "weighted bce", "adjusted focal"):
        changed, hooks = dataclasses.replace(recipe, **KINDS[kind]), Hooks(build_model=plain_model)
        (rows[kind],) = train(
            tiny_shards, tmp_path / kind.replace(" ", "-"), changed, device="cpu", hooks=hooks
        ).metrics
    same = ("val_loss", "val_top1", "val_top5", "train_top1")
    assert len({tuple(getattr(row, name) for name in same) for row in rows.values()}) == 1
    assert len({row.train_loss for row in rows.values()}) == 3
    assert rows["cross-entropy"].train_loss == pytest.approx(math.log(3), abs=0.3)


Command = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bce_threshold": 0.2}, "--bce-threshold 0.2 needs --loss bce"),
        ({"loss": "bce", "bce_threshold": 1.0}, "--bce-threshold 1.0 should be at least 0 and below 1"),
        ({"focal_gamma": -1.0}, "--focal-gamma -1.0 should be at least 0"),
        ({"effective_beta": 1.0}, "--effective-beta 1.0 should be at least 0 and below 1"),
        ({"logit_tau": 0.0}, "--logit-tau 0.0 should be above 0"),
        ({"loss": "bce", "class_balance": "logit-adjust"}, "--class-balance logit-adjust shifts the logits of a soft"),
    ],
)
def test_a_loss_that_makes_no_sense_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Recipe(**fields)


def test_a_class_without_training_images_has_no_frequency() -> None:
    names, counts = ("ramen", "apple pie", "tacos"), (5, 0, 2)
    adjusted = Recipe(class_balance="logit-adjust")
    with pytest.raises(UserError, match="needs training images of every class, and apple pie has none; prepare"):
        check_counts(adjusted, names, counts)
    check_counts(adjusted, names, (5, 1, 2))
    check_counts(Recipe(class_balance="weights"), names, counts)
    loss = build_loss(Recipe(class_balance="weights", loss="focal", label_smoothing=0.1), counts)
    assert loss(torch.randn(4, 3), torch.tensor([0, 2, 0, 2])).isfinite()
    with pytest.raises(ValueError, match="needs class_counts"):
        build_loss(adjusted)


def test_the_command_refuses_in_one_sentence(tiny_path: Path, tmp_path: Path, command: Command) -> None:
    arguments = ("--shards", str(tiny_path), "--run", str(tmp_path / "run"))
    code, _, err = command("train", *arguments, "--loss", "bce", "--class-balance", "logit-adjust", "--logit-tau", "2")
    assert code == 2
    assert err.startswith("error: --class-balance logit-adjust shifts the logits of a softmax, and --loss bce has none")
    assert not (tmp_path / "run").exists()
