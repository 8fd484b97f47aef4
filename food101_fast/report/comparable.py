"""What a run's accuracy may be compared with: its split, identical files, pretraining, and published results."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from food101_fast.runs.recipe import Recipe
from food101_fast.runs.run import Run
from food101_fast.shards.layout import split_of_name
from food101_fast.shards.protocol import SplitOrigin

OFFICIAL_TEST = 250
"""Test images of each class in Food-101's official split (Bossard et al., "Food-101", ECCV 2014)."""
_ALMOST = 0.99  # share of the official test images that a test split has, where some were damaged or copies


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published result on Food-101: all classes, measured on the whole official test set."""

    model: str
    pretraining: str
    image_size: str
    """Height and width in pixels."""
    top1: float
    """Between 0 and 1."""
    protocol: str
    """What else decides the number."""
    source: str
    """Address."""


PUBLISHED = (
    Published(
        model="random forests (Bossard et al., 2014)",
        pretraining="none",
        image_size="",
        top1=0.5076,
        protocol="the paper that introduced the data set",
        source="https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
    ),
    Published(
        model="MobileNetV2",
        pretraining="ImageNet",
        image_size="224",
        top1=0.763,
        protocol="30 epochs on all training images; the best epoch was chosen on test",
        source="https://huggingface.co/AlexKoff88/mobilenet_v2_food101",
    ),
    Published(
        model="ResNet-50",
        pretraining="ImageNet",
        image_size="224, then 512",
        top1=0.8836,
        protocol="32 epochs on 60,600 training images, the other 15,150 are val; one view",
        source="https://github.com/Pyligent/food101-image-classification",
    ),
    Published(
        model="ViT-B/16",
        pretraining="ImageNet-21k",
        image_size="224",
        top1=0.8913,
        protocol="5 epochs on all training images; evaluated on test after each",
        source="https://huggingface.co/nateraw/food",
    ),
    Published(
        model="ConvNeXt-Base",
        pretraining="ImageNet",
        image_size="224",
        top1=0.9165,
        protocol="test was used once, at the end",
        source="https://huggingface.co/ulfetozcan/FoodBev_ConvNext_Predictor",
    ),
)
"""In order of accuracy."""


@dataclass(frozen=True, kw_only=True)
class Comparable:
    """Section "Comparable results"."""

    title: str
    """The split, in a few words."""
    sentences: tuple[str, ...]
    published: tuple[Published, ...]
    """Results with the same protocol; empty where there are none."""


@functools.cache
def food101_classes() -> frozenset[str]:
    """Names of Food-101's classes, as its folders have them."""
    return frozenset(resources.files(__package__).joinpath("food101_classes.txt").read_text().split())


def comparable(run: Run) -> Comparable:
    """What a run's accuracy on test may be compared with."""
    origin = run.origin
    if origin is None:
        title, first = "Unknown split", "This run is from a version that did not keep where its splits come from."
    elif origin.mixed:
        title, first = "The source's splits were mixed", _mixed(origin)
    elif origin.given:
        title, first = _given(run, origin)
    else:
        title, first = "A split that prepare made", _own(run)
    sentences = [first, *([] if origin is None else [_duplicates(origin)]), _pretraining(run.recipe)]
    if run.recipe.method != "probe":
        sentences.append("The best epoch was chosen on val, which makes the accuracy on val a little too high.")
    if overlaid := () if origin is None else origin.overlaid:
        sentences.append(_overlaid(overlaid))
    published = PUBLISHED if _is_official(run) and "test" not in overlaid else ()
    return Comparable(title=title, sentences=tuple(sentences), published=published)


def _overlaid(splits: Sequence[str]) -> str:
    changed = f"An overlay changes {' and '.join(splits)}"
    if "test" in splits:
        return f"{changed}: images are left out or have another label. So other results have another test set."
    return f"{changed}. The test images and their labels are as they were."


def _is_food101(run: Run) -> bool:
    """Whether all classes are Food-101's; they may be a few of them."""
    if run.source.startswith("demo:"):  # drawn pictures of some of its classes
        return False
    return {name.lower().replace(" ", "_") for name in run.classes} <= food101_classes()


def _is_official(run: Run) -> bool:
    """Whether test has nearly all official test images: a kept split of all classes, with no more than these have."""
    counts = run.class_counts.get("test", ())
    is_kept = run.origin is not None and "test" in run.origin.given.values()
    is_whole = _is_food101(run) and len(counts) == len(food101_classes())
    return (
        is_kept and is_whole and max(counts) <= OFFICIAL_TEST and sum(counts) >= _ALMOST * OFFICIAL_TEST * len(counts)
    )


def _tested(run: Run) -> int:
    return sum(run.class_counts.get("test", ()))


def _given(run: Run, origin: SplitOrigin) -> tuple[str, str]:
    named = ", ".join(name for name, split in origin.given.items() if split == "test")
    whole = OFFICIAL_TEST * len(food101_classes())
    tested = _tested(run)
    nothing = ""
    if named:
        kept = f"The splits are those of the source{'' if named == 'test' else f'; its {named} is test'}."
        nothing = " No test image was trained on."
    else:
        kept = f"The source has no test split{', so prepare cut one from its train' if tested else ''}."
    if not _is_food101(run):
        return "The source's own split", f"{kept}{nothing} Compare with results on the same test images."
    if _is_official(run):
        return "Food-101's official split", (
            f"{kept} These are {tested:,} of the {whole:,} official test images.{nothing} Published results on "
            "Food-101 have the same test images."
        )
    return "A part of Food-101, split by the source", (
        f"{kept}{nothing} Test has {tested:,} images of {len(run.classes)} classes, and the official test set has "
        f"{whole:,} of {len(food101_classes())}, so published results on Food-101 can't be compared."
    )


def _mixed(origin: SplitOrigin) -> str:
    tests = {name: counts for name, counts in origin.mixed.items() if split_of_name(name) != "train"}
    trained = sum(counts.get("train", 0) for counts in tests.values())
    of_all = sum(sum(counts.values()) for counts in tests.values())
    return (
        f"All images of the source were joined and split again: {trained:,} of the {of_all:,} images of its "
        f"{' and '.join(tests)} were trained on. So the accuracy can't be compared with results that are measured on "
        "these images; prepare with --splits source for that."
    )


def _own(run: Run) -> str:
    text = (
        "The source has no splits, so prepare made them. Compare with runs on the same shards, whose manifest has the "
        f"digest {run.data}."
    )
    if _is_food101(run):
        return (
            f"{text} The classes are Food-101's. If these are its photographs, some of its official test images are in "
            "train, so published results can't be compared. For the official split prepare hub:ethz/food101 with "
            "--splits source."
        )
    return text


def _duplicates(origin: SplitOrigin) -> str:
    if origin.duplicates == "keep":
        return "Identical files were kept, so a file of test may be in train, too."
    left_out = "1 identical file was" if origin.dropped == 1 else f"{origin.dropped:,} identical files were"
    return (
        f"No file of test is in train or val: {left_out} left out. Photographs that were only resized or compressed "
        "again are not found."
    )


def _pretraining(recipe: Recipe) -> str:
    if recipe.weights == "none":
        return "The weights were random at the start: compare with other results without pretraining."
    known = recipe.weights == "DEFAULT" or recipe.weights.isidentifier()
    if known and not recipe.model.startswith("timm/"):
        return f"It starts from torchvision's weights {recipe.weights} of {recipe.model}, trained on ImageNet."
    unknown = "What these were trained on is not known here"
    if known:
        return f"It starts from pretrained weights ({recipe.model}). {unknown}; their model card says it."
    return f"It starts from pretrained weights ({recipe.weights}). {unknown}."
