"""The tables of transforms: speed and exactness, ours against others."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from figures import Rates, median, result, spread, table

from food101_fast.bench.measure import median_of_ratios


def augmentation(threads: str = "2") -> dict[str, dict[str, Rates]]:
    """Images per second by transform and library, with a number of threads."""
    rates: dict[str, dict[str, Rates]] = result("transforms-cpu")["by_threads"][threads]
    return rates


LIBRARIES = ("ours", "torchvision, loop", "torchvision, one draw", "kornia", "torchaug", "DALI")


def transforms() -> str:
    """Each transform against others, with one thread and with two; the ratio is that of paired repetitions."""
    rows = []
    for name in augmentation():
        measured = [augmentation(threads)[name] for threads in ("1", "2")]
        if "torchvision, loop" not in measured[0]:
            continue
        ratios = (f"{median_of_ratios(of['ours'], of['torchvision, loop']):.2f}" for of in measured)
        cells = {library: " / ".join(median(of[library]) for of in measured if library in of) for library in LIBRARIES}
        rows.append([name, cells["ours"], " / ".join(ratios), *(cells[library] for library in LIBRARIES[1:])])
    others = ["torchvision in a loop", "torchvision, one draw for the batch", *LIBRARIES[3:]]
    return table(["transform", "ours", "ours / loop", *others], rows)


def thread_gains() -> str:
    """How many times as fast two threads are as one, over the transforms and presets."""
    one, two = augmentation("1"), augmentation("2")
    gains = [median_of_ratios(two[name]["ours"], one[name]["ours"]) for name in two]
    return f"{min(gains):.1f} to {max(gains):.1f} times (median {statistics.median(gains):.1f})"


def kornia_lead() -> str:
    """How much faster kornia is where it is, with two threads."""
    names = ("RandomResizedCrop", "RandomRotation", "RandomAffine", "RandomPerspective")
    leads = [1 / median_of_ratios(augmentation()[name]["ours"], augmentation()[name]["kornia"]) for name in names]
    return f"{min(leads):.1f} to {max(leads):.1f}"


def augmix_cost(threads: str = "1") -> str:
    """How many times as long AugMix takes as TrivialAugmentWide, with one thread; from transforms.py --names."""
    rates = result("automatic-cpu")["by_threads"][threads]
    return f"{median_of_ratios(rates['TrivialAugmentWide']['ours'], rates['AugMix']['ours']):.1f}"


def augmix_over_loop(threads: str) -> str:
    """How many times as fast AugMix is as torchvision's image by image."""
    rates = result("automatic-cpu")["by_threads"][threads]["AugMix"]
    return f"{median_of_ratios(rates['ours'], rates['torchvision, loop']):.2f}"


def preset_rates() -> str:
    """What whole presets do."""
    rates = [
        f"`{name.removeprefix('preset ')}` {median(of['ours'])}"
        for name, of in augmentation().items()
        if name.startswith("preset ")
    ]
    return ", ".join(rates) + " images/s"


def exactness() -> str:
    """How far a batch at once is from torchvision image by image."""
    rows = []
    for name, of in result("exactness-cpu")["errors"].items():
        floating = of["float32"]["largest"]
        cells = [f"{of['uint8']['largest']:.0f}", f"{of['uint8']['share_above_one']:.3%}"]
        rows.append([name, *cells, f"{floating:.4f}" if floating else "0"])
    return table(["transform", "uint8, largest", "uint8, above 1", "float32, largest"], rows)


def resizing() -> str:
    """Ways to crop and resize a batch: speed and error."""
    found = result("exactness-cpu")["resizing"]
    rows = [
        [name, *spread(rates), f"{found['errors'][name]['largest']:.4f}", f"{found['errors'][name]['mean']:.4f}"]
        for name, rates in found["images_per_second"].items()
    ]
    return table(["way", "images/s", "lowest to highest", "largest error", "mean error"], rows)


TRANSFORM_BLOCKS: dict[str, Callable[[], str]] = {
    "transforms": transforms,
    "presets": preset_rates,
    "kornia-lead": kornia_lead,
    "thread-gains": thread_gains,
    "augmix-cost": augmix_cost,
    "augmix-over-loop": lambda: augmix_over_loop("1"),
    "augmix-over-loop-2": lambda: augmix_over_loop("2"),
    "exactness": exactness,
    "float16-error": lambda: f"{result('exactness-cpu')['errors']['RandomResizedCrop']['float16']['largest']:.2f}",
    "resizing": resizing,
}
"""By the name that a page asks for."""
