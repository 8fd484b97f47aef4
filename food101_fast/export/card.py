"""The model card of an export: what the model is, what it was made of, how good it is, and what it is not for."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from torch import nn

from food101_fast.runs.evaluation import read_evaluation
from food101_fast.runs.results import EpochRow, best_epoch, read_metrics
from food101_fast.runs.run import Run

_TEMPLATE = Path(__file__).with_name("card.md.jinja")
_WEAKEST = 5


def model_card(folder: Path, run: Run, model: nn.Module, checkpoint: str, parity: dict[str, Any]) -> str:
    """The card as Markdown with the Hugging Face hub's metadata before it.

    Results of the test split stand in it if the best checkpoint is exported and was evaluated since it was trained.

    Args:
        folder: of the run.
        run: what is stored there.
        model: the run's.
        checkpoint: the one that is exported.
        parity: `images` and `sizes` that were compared, and `differences` by file.
    """
    result = read_evaluation(folder, "test") if checkpoint == "best" else None
    is_food101 = re.search("food-?101", run.source, re.IGNORECASE) is not None
    on_hub = re.fullmatch(r"hub:([\w.-]+/[\w.-]+)", run.source)
    hub = on_hub[1] if on_hub else None
    # Never a whole path, which is nobody's business where the card is published.
    title = hub or ("drawn pictures" if run.source == "demo:" else Path(run.source.partition(":")[2]).name)
    data = ModelCardData(
        license="other",
        license_name="see-below",
        library_name="torchvision",
        pipeline_tag="image-classification",
        tags=["image-classification", "food101_fast", *(["onnx"] if "model.onnx" in parity["differences"] else [])],
        datasets=hub,
        metrics=["accuracy"],
        model_name=f"{run.recipe.model} on {title}",
        eval_results=[
            EvalResult(
                task_type="image-classification",
                dataset_type=hub or "imagefolder",
                dataset_name=title,
                dataset_split="test",
                metric_type="accuracy",
                metric_name="top-1 accuracy",
                metric_value=round(result["top1"], 4),
            )
        ]
        if result is not None
        else None,
    )
    card: ModelCard = ModelCard.from_template(
        data,
        template_path=str(_TEMPLATE),
        run=run,
        recipe=asdict(run.recipe) | {"weights": Path(run.recipe.weights).name},
        model=run.recipe.model,
        title=title,
        source="Pictures drawn by food101_fast (`demo:`)" if run.source == "demo:" else f"`{title}`",
        split_counts=", ".join(f"{sum(counts):,} images for {name}" for name, counts in run.class_counts.items()),
        classes=run.classes,
        checkpoint=checkpoint,
        parity=parity,
        result=result,
        weakest=_weakest(result),
        validation=_validation(folder) if checkpoint == "best" and result is None else None,
        has_aux=hasattr(model, "aux_logits"),
        is_food101=is_food101,
        pretrained=run.recipe.weights != "none" and Path(run.recipe.weights).suffix == "",
    )
    return str(card)


def _validation(folder: Path) -> EpochRow | None:
    rows = read_metrics(folder)
    return best_epoch(rows) if rows else None


def _weakest(result: dict[str, Any] | None) -> str:
    if result is None:
        return ""
    known = [(entry["recall"], name) for name, entry in result["per_class"].items() if entry["recall"] is not None]
    return ", ".join(f"{name} ({recall:.0%} found)" for recall, name in sorted(known)[:_WEAKEST] if recall < 1)
