"""The model card of an export: what the model is, what it was trained on, how good it is, and what it is not for."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from torch import nn

from food101_fast.runs.evaluation import read_evaluation
from food101_fast.runs.metrics import SplitMetrics
from food101_fast.runs.recipe import Recipe
from food101_fast.runs.results import EpochRow, best_epoch, read_metrics
from food101_fast.runs.run import Run

_TEMPLATE = Path(__file__).with_name("card.md.jinja")
_WEAKEST = 5


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far the exported files' probabilities are from the run's own."""

    images: int
    """Generated pictures that were compared."""
    sizes: int
    """Different sizes of these pictures."""
    differences: dict[str, float]
    """Largest difference of a probability, by file name."""


@dataclass(frozen=True, kw_only=True)
class _Source:
    """The data set, as far as a published card may name it."""

    title: str
    hub: str | None
    """Its name on the Hugging Face hub, if it is from there."""
    is_food101: bool


def model_card(
    folder: Path, run: Run, model: nn.Module, checkpoint: str, parity: Parity, temperature: float | None = None
) -> str:
    """The card as Markdown, after the Hugging Face hub's metadata.

    It has results of the test split if the best checkpoint is exported and was evaluated since the run was trained.

    Args:
        folder: of the run.
        run: what was trained, on what.
        model: of the run.
        checkpoint: name of the checkpoint that is exported.
        parity: of the exported files.
        temperature: that the programs divide logits by; None if they don't.
    """
    result = read_evaluation(folder, "test") if checkpoint == "best" else None
    source = _source(run)
    card: ModelCard = ModelCard.from_template(
        _metadata(run, source, result, onnx="model.onnx" in parity.differences),
        template_path=str(_TEMPLATE),
        run=run,
        recipe=_without_folders(run.recipe),
        model=run.recipe.model,
        title=source.title,
        source="Pictures drawn by food101_fast (`demo:`)" if run.source == "demo:" else f"`{source.title}`",
        split_counts=", ".join(f"{sum(counts):,} images for {name}" for name, counts in run.class_counts.items()),
        classes=run.classes,
        checkpoint=checkpoint,
        parity=parity,
        temperature=temperature,
        result=result,
        weakest="" if result is None else _weakest(result),
        validation=_validation(folder) if checkpoint == "best" and result is None else None,
        has_aux=hasattr(model, "aux_logits"),
        library=_library(run),
        timm_call=_timm_call(run, model),
        is_food101=source.is_food101,
        pretrained=run.recipe.weights != "none" and Path(run.recipe.weights).suffix == "",
    )
    return str(card)


def _library(run: Run) -> str:
    """The library that the model is from; one of your own has no name here."""
    return "timm" if run.recipe.model.startswith("timm/") else "torchvision"


def _timm_call(run: Run, model: nn.Module) -> str:
    """Arguments of `timm.create_model` for the same network without weights; empty if it is not one of timm."""
    if _library(run) != "timm":
        return ""
    name = run.backbone.name.removeprefix("timm/").partition("?")[0]
    made = getattr(model, "_model_args", {})
    known = {"num_classes": len(run.classes), **{key: made[key] for key in ("img_size", "in_chans") if key in made}}
    return ", ".join([f'"{name}"', *(f"{key}={value!r}" for key, value in known.items())])


def _without_folders(recipe: Recipe) -> dict[str, object]:
    """The fields of a recipe; of files and folders only the names, since their paths mean nothing on other machines."""
    teacher = ", ".join(Path(one).name for one in recipe.teacher) or None
    return asdict(recipe) | {"weights": Path(recipe.weights).name, "teacher": teacher}


def _source(run: Run) -> _Source:
    on_hub = re.fullmatch(r"hub:([\w.-]+/[\w.-]+)", run.source)
    hub = on_hub[1] if on_hub else None
    # Never a whole path, which is private where the card is published.
    title = hub or ("drawn pictures" if run.source == "demo:" else Path(run.source.partition(":")[2]).name)
    is_food101 = re.search("food-?101", run.source, re.IGNORECASE) is not None
    return _Source(title=title, hub=hub, is_food101=is_food101)


def _metadata(run: Run, source: _Source, result: SplitMetrics | None, *, onnx: bool) -> ModelCardData:
    """What the Hugging Face hub reads of a card."""
    results = []
    if result is not None:
        accuracy = EvalResult(
            task_type="image-classification",
            dataset_type=source.hub or "imagefolder",
            dataset_name=source.title,
            dataset_split="test",
            metric_type="accuracy",
            metric_name="top-1 accuracy",
            metric_value=round(result.top1, 4),
        )
        results.append(accuracy)
    return ModelCardData(
        license="other",
        license_name="see-below",
        library_name=_library(run),
        pipeline_tag="image-classification",
        tags=["image-classification", "food101_fast", *(["onnx"] if onnx else [])],
        datasets=source.hub,
        metrics=["accuracy"],
        model_name=f"{run.recipe.model} on {source.title}",
        eval_results=results or None,
    )


def _validation(folder: Path) -> EpochRow | None:
    rows = read_metrics(folder)
    return best_epoch(rows) if rows else None


def _weakest(result: SplitMetrics) -> str:
    known = [(entry.recall, name) for name, entry in result.per_class.items() if entry.recall is not None]
    shown = sorted(known)[: min(_WEAKEST, len(known) // 2)]
    return ", ".join(f"{name} ({recall:.0%} found)" for recall, name in shown if recall < 1)
