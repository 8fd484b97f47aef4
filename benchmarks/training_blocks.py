"""The tables of training: stages of a step, whole steps, and learning curves, ours against others."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from figures import bench_stages, result, spread, table, whole

from food101_fast.bench.ceilings import share_text


def stages() -> str:
    """Each stage of a training step, and its share of what the machine can do."""
    measured = bench_stages(result("stages-cpu"))
    rows = [[name, *spread(stage.repetitions), share_text(stage)] for name, stage in measured.items()]
    return table(["stage", "images/s", "lowest to highest", "of hardware limit"], rows)


def stage_sums() -> str:
    """How the stages fit together."""
    found = result("stages-cpu")
    return (
        f"Transforms, forward + backward and optimizer add up to {found['parts_over_fixed_batch']:.2f} of the step on "
        f"a fixed batch. The step from shards is {1 / found['free']['loading']:.2f} times as fast as the one on a "
        f"fixed batch (median of {len(found['stages']['loader']['repetitions'])} pairs). "
        f"Verdict: {found['verdict']['sentence']}"
    )


CONTENDERS = ("food101_fast", "bare", "timm", "torchvision")


def steps() -> str:
    """A training step on one batch, ours against others."""
    rows = []
    for one in result("peers-cpu")["steps"]["results"]:
        rates = [f"{statistics.median(one['repetitions'][name]):,.1f}" for name in CONTENDERS]
        ratios = [f"{one['ours_over'][name]:.3f}" for name in CONTENDERS[1:]]
        rows.append([f"`{one['model']}`, {one['image_size']} px, batch {one['batch_size']}", *rates, *ratios])
    head = ["model", "ours, images/s", "bare", "timm", "torchvision's reference"]
    return table([*head, "ours / bare", "ours / timm", "ours / torchvision"], rows)


def accuracy() -> str:
    """Learning curves of our trainer and of a plain loop."""
    rows = []
    for name in ("accuracy-cpu", "accuracy-64px-cpu"):
        found = result(name)
        settings, samples, agreement = found["settings"], found["samples"], found["agreement"]
        rows.append(
            [
                f"{whole(samples['train'])} pictures, {whole(samples['val'])} to validate",
                f"`{settings['model']}` at {settings['image_size']} px",
                str(settings["epochs"]),
                " ".join(f"{top1:.3f}" for top1 in agreement["ours"]),
                " ".join(f"{top1:.3f}" for top1 in agreement["plain"]),
                f"{agreement['difference']:+.3f}",
                f"{agreement['standard_error']:.3f}",
                f"{agreement['p_value']:.2f}",
            ]
        )
    head = ["data", "model", "epochs", "ours, seed by seed", "plain loop, seed by seed"]
    return table([*head, "difference", "its standard error", "p (Welch)"], rows)


TRAINING_BLOCKS: dict[str, Callable[[], str]] = {
    "stages": stages,
    "stage-sums": stage_sums,
    "steps": steps,
    "accuracy": accuracy,
    "accuracy-64px-errors": lambda: "{0[difference]:.4f} at a standard error of {0[standard_error]:.4f}".format(
        result("accuracy-64px-cpu")["agreement"]
    ),
    "verdict": lambda: f"```text\n{result('stages-cpu')['verdict']['sentence']}\n```",
}
"""By the name that a page asks for."""
