"""Distillation: the formula, what a teacher sees, and runs with one: resumed, moved, changed, on ranks, in graphs."""

from __future__ import annotations

import copy
import dataclasses
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from food101_fast.compute.distributed import World
from food101_fast.errors import UserError
from food101_fast.runs.checkpoint import load_checkpoint, save_checkpoint, weights_hash
from food101_fast.runs.run import TeacherRun, load_model, read_run
from food101_fast.shards import ShardSet
from food101_fast.train import Hooks, Recipe, train
from food101_fast.train.compiling import graph_name
from food101_fast.train.context import TrainContext
from food101_fast.train.distillation import Member, Teacher, distilled, load_teacher
from food101_fast.train.memory import trial_steps
from food101_fast.train.schedule import Phase
from food101_fast.train.step import TrainStep
from food101_fast.transforms import InputSpec
from food101_fast.transforms.normalize import IMAGENET, ToNormalized
from tests.fake_cuda import CUDA, fake_cuda
from tests.train import test_cuda_graph
from tests.train.launch import Job, plain_model, start
from tests.train.test_cuda_graph import GRAPHED, device  # noqa: F401
from tests.train.test_resume import difference, notes_of, state_of
from tests.train.test_step import CPU, SGD, batch, small_model

Command = Callable[..., tuple[int, str, str]]

HALVES = InputSpec(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), interpolation="bicubic")
TAUGHT = dataclasses.replace(SGD, teacher=("elsewhere",))


def member(network: nn.Module, *, size: int = 32, inputs: InputSpec = IMAGENET) -> Member:
    run = TeacherRun(run="elsewhere", weights="0" * 16)
    return Member(network=network, size=size, inputs=inputs, run=run, line="teacher: elsewhere")


def taught_by(*networks: nn.Module, temperature: float = 2.0) -> Teacher:
    return Teacher([member(network) for network in networks], temperature=temperature)


class Seen(nn.Module):
    """Keeps what it is given."""

    def forward(self, images: Tensor) -> Tensor:
        self.images = images
        return images.mean(dim=(2, 3))


def test_the_loss_follows_its_formula() -> None:
    logits, taught = torch.randn(6, 4).double(), torch.randn(6, 4).double().softmax(dim=1)
    q = (logits / 3).softmax(dim=1)
    expected = 0.7 * 5 + 0.3 * 9 * (taught * (taught.log() - q.log())).sum(dim=1).mean()
    loss = torch.tensor(5.0, dtype=torch.float64)
    torch.testing.assert_close(distilled(loss, logits, taught, temperature=3.0, weight=0.3), expected)

    def of(given: Tensor) -> Tensor:
        return distilled(
            functional.cross_entropy(given, torch.arange(6) % 4), given, taught, temperature=3.0, weight=0.3
        )

    assert torch.autograd.gradcheck(of, logits.clone().requires_grad_())
    # A teacher that is certain has probabilities of 0.
    certain = functional.one_hot(torch.arange(6) % 4, 4).double()
    assert distilled(loss, logits, certain, temperature=1.0, weight=1.0).item() == pytest.approx(
        functional.cross_entropy(logits, torch.arange(6) % 4).item()
    )


def test_the_square_of_the_temperature_keeps_the_gradient() -> None:
    """At high temperatures the gradient tends to (z - v) / N of the paper's equation 4, whatever the temperature is."""
    z, v = torch.randn(5, 4).double(), torch.randn(5, 4).double()
    centered = (z - z.mean(dim=1, keepdim=True)) - (v - v.mean(dim=1, keepdim=True))
    for temperature in (200.0, 400.0):
        given = z.clone().requires_grad_()
        taught = (v / temperature).softmax(dim=1)
        distilled(torch.tensor(0.0), given, taught, temperature=temperature, weight=1.0).backward()
        torch.testing.assert_close(given.grad, centered / 4 / 5, rtol=0.1, atol=1e-3)


def test_an_ensemble_is_the_mean_of_probabilities() -> None:
    """With inputs and sizes of its own for each; nothing of it is trained."""
    first, second = small_model(), small_model()
    images = torch.randn(4, 3, 32, 32)
    teacher = taught_by(first, second, temperature=4.0)
    expected = sum((network.eval()(images) / 4).softmax(dim=1) for network in (first, second)) / 2
    torch.testing.assert_close(teacher(images), expected)
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    torch.testing.assert_close(teacher(images).sum(dim=1), torch.ones(4))


def test_a_teacher_sees_the_same_pixels_in_its_own_normalization_and_size() -> None:
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    seen, same = Seen(), Seen()
    given = ToNormalized()(pixels)
    Teacher([member(seen, inputs=HALVES), member(same)], temperature=1.0)(given)
    torch.testing.assert_close(seen.images, ToNormalized(spec=HALVES)(pixels), rtol=1e-5, atol=1e-5)
    assert same.images is given
    for size in (24, 48):
        Teacher([member(seen, size=size)], temperature=1.0)(given)
        assert seen.images.shape == (2, 3, size, size)
        torch.testing.assert_close(seen.images.mean(), given.mean(), atol=0.05, rtol=0)
    Teacher([member(seen, inputs=HALVES)], temperature=1.0, inputs=HALVES)(given)
    assert seen.images is given


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("preset", ["baseline", "trivial"])
def test_a_step_is_the_plain_loop(preset: str, accumulate: int) -> None:
    """The teacher's images are those of the student, mixed ones too."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    network, plain = small_model(), copy.deepcopy(model)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    recipe = dataclasses.replace(
        TAUGHT, accumulate=accumulate, teacher_temperature=3.0, teacher_weight=0.4, preset=preset
    )
    step = TrainStep(recipe, model, CPU, 3, teacher=taught_by(network, temperature=3.0))
    step.train_mode()
    images, labels = step.augment(batch(), epoch=0)
    loss, _ = step.update(images, labels)
    taught = (network(images) / 3).softmax(dim=1)
    hard = functional.cross_entropy(plain(images), labels)
    expected = distilled(hard, plain(images), taught, temperature=3.0, weight=0.4)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = [parameter.grad for parameter in step.model.parameters()]
    torch.testing.assert_close(gradients, [parameter.grad for parameter in plain.parameters()], rtol=1e-4, atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_step_and_its_recipe_agree_on_a_teacher() -> None:
    for recipe, teacher in ((TAUGHT, None), (SGD, taught_by(small_model()))):
        with pytest.raises(ValueError, match="a step has a teacher if its recipe has one"):
            TrainStep(recipe, small_model(), CPU, 3, teacher=teacher)


def test_dropout_of_the_student_does_not_depend_on_the_teacher() -> None:
    """A teacher with dropout draws nothing."""
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(3 * 32 * 32, 3))
    teacher = taught_by(nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(3 * 32 * 32, 3)))
    step = TrainStep(TAUGHT, model, CPU, 3, teacher=teacher)
    images = torch.randn(8, 3, 32, 32)
    torch.manual_seed(4)
    before = step.logits(images)
    torch.manual_seed(4)
    assert step._taught(images) is not None
    assert torch.equal(step.logits(images), before)


@pytest.mark.parametrize("amp", ["fp16", "off"])
def test_a_teacher_waits_for_nothing(amp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a captured step, with a teacher of another size and other inputs, and another one."""
    monkeypatch.setattr("torch.cuda.is_current_stream_capturing", lambda: True)
    recipe = dataclasses.replace(TAUGHT, amp=amp, accumulate=2, compile="off", cuda_graph="off")
    with fake_cuda() as mode:
        with mode.waiting_allowed():
            members = [
                member(small_model(), size=24, inputs=HALVES),
                member(small_model(), size=48),
                member(small_model()),
            ]
            teacher = Teacher(members, temperature=2.0).to(CUDA)
            step = TrainStep(recipe, small_model(), CUDA, 3, teacher=teacher)
            step.train_mode()
        given, numbers = batch(), torch.arange(8, device=CUDA)
        images = torch.zeros(8, 40, 40, 3, dtype=torch.uint8, device=CUDA).permute(0, 3, 1, 2)
        number = torch.zeros((), device=CUDA)
        assert given.images.shape == images.shape
        for _ in range(2):
            loss, _ = step._capturable(images, numbers % 3, numbers, number.long(), number, number)
        assert loss.device == CUDA


def test_a_graphed_step_is_the_eager_one(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    recipe = dataclasses.replace(GRAPHED, amp="off", teacher=("elsewhere",))
    teacher = Teacher([member(small_model(), size=24), member(small_model(), inputs=HALVES)], temperature=2.0).to(
        device
    )
    monkeypatch.setattr(test_cuda_graph, "TrainStep", lambda *args: TrainStep(*args, teacher=teacher))
    eager = test_cuda_graph.trained(dataclasses.replace(recipe, cuda_graph="off"), device)
    graphed = test_cuda_graph.trained(recipe, device)
    tolerance = 1e-4 if device.type == "cpu" else 0.05
    assert graphed[0] == pytest.approx(eager[0], rel=tolerance, abs=tolerance)


def test_a_teacher_is_compiled_where_the_student_is_and_once_for_each_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are run as they are; frozen layers and epochs of the student need no further one."""
    counts = {"teacher": 0, "student": 0}
    real = torch.compile

    def teaches(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        counts["teacher"] += 1
        return graph.forward

    def learns(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        counts["student"] += 1
        return graph.forward

    def counted(module: nn.Module, *, fullgraph: bool, dynamic: bool, mode: str) -> Callable[..., Any]:
        backend = teaches if isinstance(module, Teacher) else learns  # torch keeps a graph for each backend
        return module if fullgraph else real(module, backend=backend, dynamic=dynamic)

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", counted)
    losses: dict[str, list[float]] = {"off": [], "on": []}
    plain, network = small_model(), small_model()
    for choice in ("off", "on"):
        recipe = dataclasses.replace(TAUGHT, compile=choice)
        step = TrainStep(recipe, copy.deepcopy(plain), CPU, 3, teacher=taught_by(network))
        for phase in (Phase(32, frozen=2), Phase(32, frozen=0), Phase(36, frozen=0)):
            step.start_phase(phase)
            step.train_mode()
            torch.manual_seed(1)
            losses[choice] += [step(batch(), epoch)[0].item() for epoch in (0, 1)]
        assert counts["teacher"] == (0 if choice == "off" else 2)
    torch.compiler.reset()
    # A graph for each size, and in newer versions than torch 2.11 another one where other layers train.
    assert counts["student"] in (2, 3)
    assert losses["on"] == pytest.approx(losses["off"], rel=1e-5)


@pytest.fixture(scope="module")
def student(tiny_run: Path, tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recipe]:
    """A run with two teachers, class weights, a moving average and two sizes, that was never interrupted."""
    folder = tmp_path_factory.mktemp("distilled") / "run"
    recipe = dataclasses.replace(
        SGD, teacher=(str(tiny_run), str(tiny_run)), epochs=2, batch_size=6, learning_rate=0.05, ema_decay=0.9,
        class_balance="weights", loss="focal", image_size=64, start_size=32,
    )  # fmt: skip
    assert start(Job(shards=tiny_path, run=folder, recipe=recipe, plain=True)) == [0]
    return folder, recipe


def test_a_run_remembers_its_teachers(student: tuple[Path, Recipe], tiny_run: Path) -> None:
    run = read_run(student[0])
    assert run.teachers == (TeacherRun(run=str(tiny_run), weights=weights_hash(tiny_run, "best")),) * 2
    assert run.recipe == student[1]


def test_interrupted_and_resumed_with_a_moved_teacher_is_the_same_to_the_bit(
    student: tuple[Path, Recipe], tiny_run: Path, tiny_path: Path, tmp_path: Path
) -> None:
    whole, recipe = student
    run = tmp_path / "run"
    job = Job(shards=tiny_path, run=run, recipe=recipe, plain=True)
    assert start(dataclasses.replace(job, send=(signal.SIGTERM, 4))) == [0]
    moved = tmp_path / "moved"
    shutil.copytree(tiny_run, moved)
    later = dataclasses.replace(recipe, teacher=(str(moved), str(moved)))
    assert start(dataclasses.replace(job, recipe=later, resume=True)) == [0]
    assert {one.run for one in read_run(run).teachers} == {str(moved)}
    found = [one for one in difference(state_of(run), state_of(whole)) if "/recipe/teacher" not in one]
    assert found == []


def test_ranks_add_up_to_one(student: tuple[Path, Recipe], tiny_path: Path, tmp_path: Path) -> None:
    """Each rank has the teacher."""
    recipe = dataclasses.replace(student[1], epochs=1, start_size=None, image_size=32, preset="baseline")
    for ranks in (1, 2):
        notes = tmp_path / f"{ranks}.jsonl"
        job = Job(shards=tiny_path, run=tmp_path / f"run-{ranks}", recipe=recipe, plain=True, notes=notes)
        assert start(job, ranks) == [0] * ranks
    one, two = (notes_of(tmp_path / f"{ranks}.jsonl") for ranks in (1, 2))
    for step in range(3):
        assert one[step][0] == two[step][0]
        np.testing.assert_allclose(one[step][1], two[step][1], atol=1e-5, rtol=0)


def resumed(folder: Path, shards: ShardSet, recipe: Recipe) -> None:
    train(shards, folder, recipe, device="cpu", resume=True, hooks=Hooks(build_model=plain_model))


def test_a_changed_teacher_can_not_resume(
    student: tuple[Path, Recipe], tiny_run: Path, tiny_shards: ShardSet, tmp_path: Path
) -> None:
    folder, recipe = tmp_path / "run", student[1]
    shutil.copytree(student[0], folder)
    other = tmp_path / "other"
    shutil.copytree(tiny_run, other)
    weights, state = load_checkpoint(other, "best")
    weights["fc.bias"] += 1e-3
    save_checkpoint(other, "best", weights, state)
    before = (folder / "recipe.json").read_bytes()
    for teacher, message in (
        ((str(tiny_run), str(other)), f"the best checkpoint of its teacher {other} has other weights now; give"),
        ((str(tiny_run),), f"was trained with --teacher {tiny_run} {tiny_run}; give the same runs"),
        ((), "was trained with --teacher "),
        ((str(tiny_run), str(tmp_path / "gone")), f"--teacher {tmp_path / 'gone'} has no run; give the folder"),
    ):
        with pytest.raises(UserError, match=message.replace("(", r"\(")):
            resumed(folder, tiny_shards, dataclasses.replace(recipe, teacher=teacher))
    assert (folder / "recipe.json").read_bytes() == before
    # Another temperature is another recipe.
    with pytest.raises(UserError, match=r"resumed with --teacher-temperature 3\.0 \(it was trained with 2\.0\)"):
        resumed(folder, tiny_shards, dataclasses.replace(recipe, teacher_temperature=3.0))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["apple pie", "ramen"], "3 and not 2"),
        (["ramen", "apple pie", "tacos"], "class 0 is apple pie and not ramen"),
        (["apple pie", "ramen", "pizza"], "class 2 is tacos and not pizza"),
    ],
)
def test_classes_must_be_the_same_in_the_same_order(tiny_run: Path, classes: list[str], message: str) -> None:
    recipe = Recipe(teacher=(str(tiny_run),))
    assert load_teacher(recipe, ["apple pie", "ramen", "tacos"], CPU) is not None
    with pytest.raises(UserError, match=rf"was trained on other classes than those of the shards \({message}\); give"):
        load_teacher(recipe, classes, CPU)
    assert load_teacher(Recipe(), classes, CPU) is None


def test_a_loaded_teacher_is_the_runs_best_checkpoint(tiny_run: Path) -> None:
    teacher = load_teacher(
        Recipe(teacher=(str(tiny_run),), teacher_temperature=1.0), ["apple pie", "ramen", "tacos"], CPU
    )
    assert teacher is not None
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(teacher(images), load_model(tiny_run, read_run(tiny_run))(images).softmax(dim=1))


def test_the_trial_for_memory_has_the_teacher() -> None:
    seen = Seen()
    context = TrainContext(recipe=TAUGHT, device=CPU, world=World(), classes=3, stored_size=40, teacher=taught_by(seen))
    trial_steps(context)(4)
    assert seen.images.shape == (4, 3, 32, 32)


def test_compiling_takes_longer_with_teachers() -> None:
    names = {graph_name(dataclasses.replace(SGD, teacher=("a",) * many), Phase(32, 0), CPU, 1) for many in (0, 1, 2)}
    assert len(names) == 3


def test_the_command_says_who_teaches(tiny_run: Path, tiny_path: Path, tmp_path: Path, command: Command) -> None:
    run = tmp_path / "run"
    arguments = ("--shards", str(tiny_path), "--run", str(run), "--model", "shufflenet_v2_x0_5", "--weights", "none")
    more = ("--image-size", "32", "--epochs", "1", "--batch-size", "16", "--device", "cpu")
    code, _, err = command("train", *arguments, *more, "--teacher", str(tmp_path / "gone"))
    assert code == 2
    assert err.startswith(f"error: --teacher {tmp_path / 'gone'} has no run; give")
    assert not run.exists()
    code, out, err = command("train", *arguments, *more, "--teacher", str(tiny_run), "--teacher-weight", "0.9")
    assert code == 0
    top1 = max(orjson.loads(line)["val_top1"] for line in (tiny_run / "metrics.jsonl").read_bytes().splitlines())
    assert f"teacher: {tiny_run} (shufflenet_v2_x0_5, val top-1 {top1:.2f})" in " ".join((out + err).split())
    stored = read_run(run).recipe
    assert (stored.teacher, stored.teacher_weight) == ((str(tiny_run),), 0.9)
    assert (run / "report.html").exists()
