"""The tables and figures of the pages that gpu.sh has measured, as in training_blocks.py."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from figures import fastest_first, result, spread, table, whole

from food101_fast.bench.measure import median_of_ratios

GPU = {
    "job": "gpu-h200-2",
    "steps": "gpu-h200-2",
    "device": "gpu-h200-3",
    "bench": "gpu-h200-3",
    "compiled": "gpu-h200-3",
    "presets": "gpu-h200-1",
}
"""The results that each part of gpu.sh is quoted from."""

JOBS = ("gpu-h200-1", "gpu-h200-2", "gpu-h200-4")
"""The results that have the notebook's job."""


def gpu_part(part: str, of: str | None = None) -> dict[str, Any]:
    """What a part of gpu.sh left."""
    found: dict[str, Any] = result(of or GPU[part])["parts"][part]
    return found


def gpu_row(part: str, name: str, of: str | None = None) -> dict[str, Any]:
    """A row of a part of gpu.sh."""
    (row,) = (row for row in gpu_part(part, of)["rows"] if row["name"] == name)
    found: dict[str, Any] = row
    return found


def gpu_rate(part: str, name: str) -> float:
    """The median of a rate of gpu.sh, in images per second."""
    return float(statistics.median(gpu_row(part, name)["repetitions"]))


def gpu_job(epoch: int | None = None, of: str | None = None) -> float:
    """Seconds of the notebook's job from the command on, until an epoch is done or until the last checkpoint."""
    name = "default, last checkpoint" if epoch is None else f"default, epoch {epoch} done"
    return float(gpu_row("job", name, of)["value"])


STEP = "mobilenet_v2 160 px, batch {batch}, fp16, {mode}: {name}"


def gpu_step(batch: int, mode: str, name: str) -> float:
    """Images per second of a MobileNetV2's training step at 160 px in fp16."""
    return gpu_rate("steps", STEP.format(batch=batch, mode=mode, name=name))


def gpu_epoch_rate(of: str | None = None) -> float:
    """Images per second of the notebook's job: the median of the epochs after the first."""
    epochs = [row["timing"]["images_per_second"] for row in gpu_part("job", of)["rows"] if "timing" in row]
    return float(statistics.median(epochs[1:]))


def gpu_timing(epoch: int) -> dict[str, float]:
    """What an epoch of the notebook's job says of its time."""
    timing: dict[str, float] = gpu_row("job", f"default, epoch {epoch} done")["timing"]
    return timing


def gpu_machine() -> str:
    """What stands beside the GPU, and the versions."""
    about = gpu_part("job")["provenance"]
    versions, machine = about["versions"], about["machine"]
    clock = max(about["cpu_state"]["mhz"]) / 1e3
    return (
        f"{machine['cores']} cores at {clock:.1f} GHz, torch {versions['torch']}, torchvision {versions['torchvision']}"
    )


def gpu_outcomes() -> str:
    """How the CUDA tests ended in the last run of each, of those of the last two results."""
    last = {row["name"]: row["outcome"] for of in ("gpu-h200-3", "gpu-h200-4") for row in gpu_part("tests", of)["rows"]}
    outcomes = list(last.values())
    return ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in ("passed", "failed", "skipped"))


def gpu_compiled(batch: int, name: str) -> float:
    """Images per second of a whole step, in the run with compiled ones."""
    return gpu_rate("compiled", STEP.format(batch=batch, mode="compiled-graph", name=name))


def gpu_headline() -> str:
    """What a GPU did."""
    crop = "crop + flip, batch 512: {}"
    peers = [crop.format(name) for name in ("torchvision, loop", "kornia", "torchvision, one draw")]
    whole_step = gpu_step(128, "cuda-graph", "whole step")
    rows = [
        [
            "MobileNetV2 at 160 px, fp16: training step with augmentation, as one CUDA graph; batch 128 / 512",
            f"{whole(whole_step)} / {whole(gpu_step(512, 'cuda-graph', 'whole step'))}",
        ],
        [
            "the same, compiled too (in another run)",
            f"{whole(gpu_compiled(128, 'whole step'))} / {whole(gpu_compiled(512, 'whole step'))}",
        ],
        [
            "timm's training step in the first row's run, no augmentation, no graph (not measured with one)",
            f"{whole(gpu_step(128, 'eager', 'timm'))} / {whole(gpu_step(512, 'eager', 'timm'))}",
        ],
        [
            "our training step, also without augmentation and without a graph",
            f"{whole(gpu_step(128, 'eager', 'food101_fast'))} / {whole(gpu_step(512, 'eager', 'food101_fast'))}",
        ],
        [
            "step from shards, batch 128; divided by the same step on a batch that is in memory already",
            f"{whole(gpu_rate('bench', 'step from shards'))}, "
            f"{gpu_row('bench', 'step from shards over fixed batch')['value']:.3f}",
        ],
        [
            "the notebook's training (7 epochs of 80,800 images), until the last checkpoint (with the report)",
            f"{gpu_job():.1f} s ({gpu_row('job', 'default, last checkpoint')['seconds_with_report']:.1f} s)",
        ],
        [
            "of this time: start and first epoch; each later epoch",
            f"{gpu_job(1):.1f} s; {(gpu_job(7) - gpu_job(1)) / 6:.1f} s",
        ],
        [
            "the same without cuDNN's search for algorithms, now the default for short runs (cut after five epochs)",
            f"{gpu_job(1, JOBS[-1]):.1f} s; {(gpu_job(5, JOBS[-1]) - gpu_job(1, JOBS[-1])) / 4:.1f} s",
        ],
        [
            "random resized crop + flip to 160 px, random for each image, batch 512: compiled (not compiled)",
            f"{whole(gpu_rate('presets', crop.format('ours, compiled')))} "
            f"({whole(gpu_rate('presets', crop.format('ours')))})",
        ],
        [
            "the same: torchvision image by image; kornia; torchvision with the same random numbers for all images",
            "; ".join(whole(gpu_rate("presets", name)) for name in peers),
        ],
        [
            "raw shards to the GPU, one thread (the limit: copies from page-locked memory)",
            f"{whole(gpu_rate('device', 'raw, residence stream'))} "
            f"({whole(gpu_rate('device', 'copies alone, page-locked (the bus)'))})",
        ],
    ]
    return table(["what", "images/s (or seconds)"], rows)


def gpu_steps() -> str:
    """A MobileNetV2's training step on a GPU: ours against others, in images per second."""
    ways = [
        ("bare (forward, backward, fused Adam)", "eager", "bare"),
        ("timm's", "eager", "timm"),
        ("torchvision's", "eager", "torchvision"),
        ("**ours**", "eager", "food101_fast"),
        ("**ours**, whole step with augmentation", "eager", "whole step"),
        ("**ours**, whole step with augmentation, one CUDA graph (the default)", "cuda-graph", "whole step"),
    ]
    compiled = [
        ("in another run: **ours**, whole step with augmentation", "whole step, eager"),
        ("**ours**, whole step with augmentation, compiled and one CUDA graph", "whole step"),
    ]
    measured = [("steps", *way) for way in ways] + [
        ("compiled", title, "compiled-graph", name) for title, name in compiled
    ]
    rows = []
    for part, title, mode, name in measured:
        rates = (gpu_row(part, STEP.format(batch=batch, mode=mode, name=name)) for batch in (128, 512))
        cells = ("{} ({})".format(*spread(row["repetitions"])) for row in rates)
        rows.append([title, *cells])
    return table(["step", "batch 128, images/s", "batch 512, images/s"], rows)


def gpu_device() -> str:
    """From shards to a GPU by encoding, residence and decoder."""
    rows = [
        [row["name"], *spread(row["repetitions"]), "" if not row.get("over") else f"{row['over']['the bus']:.2f}"]
        for row in gpu_part("device")["rows"]
    ]
    return table(["what", "images/s", "lowest to highest", "of the bus"], rows)


def gpu_stages() -> str:
    """The stages of a step on a GPU, as bench measures them."""
    rows = []
    for row in gpu_part("bench")["rows"]:
        if "repetitions" in row:
            share = row["share_of_ceiling"]
            rows.append([row["name"], *spread(row["repetitions"]), "" if share is None else f"{100 * share:.0f}%"])
    return table(["stage", "images/s", "lowest to highest", "of hardware limit"], rows)


def gpu_presets() -> str:
    """Crop + flip and a preset on a GPU, the fastest first."""
    rates = {row["name"]: row["repetitions"] for row in gpu_part("presets")["rows"]}
    rows = [[name, *spread(rates[name])] for name in fastest_first(rates)]
    return table(["what", "images/s", "lowest to highest"], rows)


def gpu_epochs() -> str:
    """The notebook's job, epoch by epoch: kernels one by one, as one CUDA graph, and without cuDNN's search."""
    rows = []
    for epoch in range(1, 8):
        cells = []
        for of in JOBS:
            names = {row["name"]: row for row in gpu_part("job", of)["rows"]}
            row = names.get(f"default, epoch {epoch} done")
            rate = "" if row is None else whole(row["timing"]["images_per_second"])
            cells += ["" if row is None else f"{row['value']:.1f}", rate]
        rows.append([str(epoch), *cells])
    runs = ("first run: seconds from the command", "second run, CUDA graph: seconds", "fourth run, no search: seconds")
    return table(["epoch", *(cell for run in runs for cell in (run, "images/s"))], rows)


def gpu_graph_gain() -> str:
    """How many times as fast a CUDA graph makes the whole step of batch 128, in both runs."""
    names = [STEP.format(batch=128, mode="cuda-graph", name=name) for name in ("whole step", "whole step, eager")]
    gains = [
        median_of_ratios(*(gpu_row("steps", name, of)["repetitions"] for name in names))
        for of in ("gpu-h200-1", "gpu-h200-2")
    ]
    return f"{min(gains):.1f} to {max(gains):.1f}"


def gpu_bus() -> str:
    """How many bytes per second the loader and the bus move."""
    bus = gpu_row("device", "copies alone, page-locked (the bus)")
    size = bus["bytes_per_image"]
    ours = gpu_rate("device", "raw, residence stream")
    return f"{ours * size / 1e9:.1f} of {statistics.median(bus['repetitions']) * size / 1e9:.0f} GB/s"


GPU_BLOCKS: dict[str, Callable[[], str]] = {
    "gpu-headline": gpu_headline,
    "gpu-steps": gpu_steps,
    "gpu-device": gpu_device,
    "gpu-stages": gpu_stages,
    "gpu-compiled-gain": lambda: " and ".join(
        f"{gpu_compiled(batch, 'whole step') / gpu_step(batch, 'cuda-graph', 'whole step'):.2f}" for batch in (128, 512)
    ),
    "gpu-five-epochs": lambda: f"{gpu_job(5, JOBS[-1]):.1f}",
    "gpu-seven-epochs": lambda: f"{gpu_job(5, JOBS[-1]) + (gpu_job(5, JOBS[-1]) - gpu_job(1, JOBS[-1])) / 2:.0f}",
    "gpu-search-seconds": lambda: f"{gpu_job(1) - gpu_job(1, JOBS[-1]):.0f}",
    "gpu-search-gain": lambda: f"{gpu_epoch_rate(JOBS[1]) / gpu_epoch_rate(JOBS[-1]):.2f}",
    "gpu-presets": gpu_presets,
    "gpu-epochs": gpu_epochs,
    "gpu-bus": gpu_bus,
    "gpu-tests": gpu_outcomes,
    "gpu-machine": gpu_machine,
    "gpu-start": lambda: f"{gpu_job(1) - gpu_timing(1)['seconds'] - gpu_timing(1)['validation_seconds']:.0f}",
    "gpu-first-steps": lambda: f"{gpu_timing(1)['seconds'] - gpu_timing(2)['seconds']:.0f}",
    "gpu-shards-rate": lambda: whole(gpu_epoch_rate()),
    "gpu-job": lambda: f"{gpu_job():.1f}",
    "gpu-first-epoch": lambda: f"{gpu_job(1) - (gpu_job(7) - gpu_job(1)) / 6:.0f}",
    "gpu-graph-gain": gpu_graph_gain,
    "gpu-compiled-first": lambda: (
        f"{gpu_row('job', 'default, epoch 1 done', 'gpu-h200-1')['timing']['compile_seconds']:.0f}"
    ),
    "gpu-waiting": lambda: f"{100 * gpu_timing(1)['wait_share']:.1f} %",
}
"""By the name that a page asks for."""
