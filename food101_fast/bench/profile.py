"""Ten training steps under torch's profiler: a trace, the costliest operators, and a picture of who waits for whom."""

from __future__ import annotations

import contextlib
import gzip
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from matplotlib.figure import Figure
from torch.profiler import ProfilerActivity, profile, record_function

from food101_fast.bench.measure import wait_for
from food101_fast.bench.settings import BenchSettings
from food101_fast.bench.stages import Subject
from food101_fast.bench.works import endless
from food101_fast.plots import png
from food101_fast.storage import write_atomically, writing

TRACE_NAME = "trace.json.gz"
_ADVICE = "or give another --profile"
STEPS = 10
_WARM_UP = 3
_OPERATORS = 10
_MEMORY_POINTS = 1000

LOADER, WAIT, TRANSFORMS, BACKWARD, OPTIMIZER = (
    "loader's threads",
    "waiting for the loader",
    "transforms",
    "forward + backward",
    "optimizer",
)
# Okabe and Ito's.
_COLORS = {
    LOADER: "#0072b2",
    WAIT: "#d55e00",
    "copies on the device": "#cc79a7",
    "kernels on the device": "#e69f00",
    TRANSFORMS: "#009e73",
    BACKWARD: "#56b4e9",
    OPTIMIZER: "#999999",
}

Spans = dict[str, list[tuple[float, float]]]
"""By lane, begin and end in seconds."""


def profile_steps(settings: BenchSettings, folder: Path) -> dict[str, Any]:
    """Profile ten steps from shards.

    Writes into `folder`: `trace.json.gz` for https://ui.perfetto.dev, `operators.txt` (the ten costliest),
    `timeline.png` and `profile.json`. Profiling makes steps slower, so rates are those of bench, not of the trace.

    Args:
        settings: what is profiled.
        folder: made if it is not there; an earlier profile in it is replaced.

    Returns:
        What goes into `profile.json`: seconds of each lane; `kernel_gap_share`, the part of the time between the first
        and the last kernel in which none ran (None without a GPU); `memory`, [seconds, bytes in use] over time.

    Raises:
        UserError: the folder can't be written, or the shards, the run, the model or the device can't be used.
    """
    with writing(folder, _ADVICE):
        folder.mkdir(parents=True, exist_ok=True)
    subject = Subject(settings)
    spans: Spans = {lane: [] for lane in _COLORS}
    profiler, begun, ended = _recorded(subject, spans)
    trace = folder / TRACE_NAME
    with writing(trace, _ADVICE):
        profiler.export_chrome_trace(str(trace))
    events = orjson.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    zero = _beginning(events)
    for lane, category in (("kernels on the device", "kernel"), ("copies on the device", "gpu_memcpy")):
        spans[lane] = [
            (event["ts"] / 1e6 - zero, (event["ts"] + event["dur"]) / 1e6 - zero)
            for event in events
            if event.get("cat") == category
        ]
    device = "cuda" if subject.device.type == "cuda" else "cpu"
    table = profiler.key_averages().table(
        sort_by=f"self_{device}_time_total", row_limit=_OPERATORS, max_name_column_width=40
    )
    result = {
        "steps": STEPS,
        "seconds": ended - begun,
        "lanes": {lane: sum(end - start for start, end in of_lane) for lane, of_lane in spans.items() if of_lane},
        "kernel_gap_share": _gap_share(spans["kernels on the device"]),
        "memory": _memory(events, zero),
    }
    with writing(folder, _ADVICE):
        write_atomically(folder / "operators.txt", table.encode())
        write_atomically(folder / "profile.json", orjson.dumps(result, option=orjson.OPT_INDENT_2))
        write_atomically(folder / "timeline.png", png(_timeline(spans, result)))
    return result


def _beginning(events: list[dict[str, Any]]) -> float:
    """When the host began step 0, in the seconds of a trace in Kineto's JSON.

    With CUDA each annotation is there twice: on the host as a user_annotation, and as a gpu_user_annotation from when
    the first of its kernels ran. The device lags behind the host, and lanes of the host begin at its step 0.
    """
    annotations = (event for event in events if event.get("cat") == "user_annotation" and event["name"] == "step 0")
    return float(next(annotations)["ts"]) / 1e6


def _recorded(subject: Subject, spans: Spans) -> tuple[profile, float, float]:
    """Ten steps under the profiler, noted in `spans` from their beginning; the profiler, begin and end."""
    activities = [ProfilerActivity.CPU]
    if subject.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    batches = endless(subject.loader)
    with _gathering_noted(subject, spans[LOADER]):
        for _ in range(_WARM_UP):
            subject.step(next(batches), 0)
        wait_for(subject.device)
        with profile(activities=activities, profile_memory=True) as profiler:
            begun = time.perf_counter()
            for number in range(STEPS):
                with record_function(f"step {number}"):
                    _step(subject, batches, spans)
            wait_for(subject.device)
            ended = time.perf_counter()
    for lane in (LOADER, WAIT, TRANSFORMS, BACKWARD, OPTIMIZER):
        spans[lane] = [(start - begun, end - begun) for start, end in spans[lane] if end > begun and start < ended]
    return profiler, begun, ended


def _step(subject: Subject, batches: Iterator[Any], spans: Spans) -> None:
    with _noted(spans, WAIT):
        batch = next(batches)
    with _noted(spans, TRANSFORMS):
        images, labels = subject.step.augment(batch, 0)
    with _noted(spans, BACKWARD):
        subject.step.backward(images, labels)
    with _noted(spans, OPTIMIZER):
        subject.step.apply()


@contextlib.contextmanager
def _noted(spans: Spans, lane: str) -> Iterator[None]:
    start = time.perf_counter()
    with record_function(lane):
        yield
    spans[lane].append((start, time.perf_counter()))


@contextlib.contextmanager
def _gathering_noted(subject: Subject, spans: list[tuple[float, float]]) -> Iterator[None]:
    """Note when the loader's threads gather or decode; the profiler does not look into them."""
    split = subject.loader.split
    gather = split.gather

    def noted(*arguments: Any) -> Any:
        start = time.perf_counter()
        result = gather(*arguments)
        spans.append((start, time.perf_counter()))
        return result

    setattr(split, "gather", noted)  # noqa: B010
    try:
        yield
    finally:
        delattr(split, "gather")


def _gap_share(kernels: list[tuple[float, float]]) -> float | None:
    """The part of the time from the first kernel's begin to the last one's end in which no kernel ran."""
    if not kernels:
        return None
    ordered = sorted(kernels)
    covered, reached = 0.0, ordered[0][0]
    for start, end in ordered:
        covered += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return 1 - covered / (reached - ordered[0][0])


def _memory(events: list[dict[str, Any]], zero: float) -> list[list[float]]:
    """Bytes in use over time, on the GPU where there is one, as the profiler noted them at each allocation."""
    noted = [event for event in events if event.get("name") == "[memory]"]
    most = max((event["args"]["Device Type"] for event in noted), default=0)  # 0 is the CPU
    points: list[tuple[float, float]] = sorted(
        (event["ts"] / 1e6 - zero, float(event["args"]["Total Allocated"]))
        for event in noted
        if event["args"]["Device Type"] == most
    )
    # There are thousands in a step: the largest of each of a thousand parts of the time is kept.
    part = max((points[-1][0] - points[0][0]) / _MEMORY_POINTS, 1e-9) if points else 1.0
    largest: dict[int, tuple[float, float]] = {}
    for point in points:
        place = int((point[0] - points[0][0]) / part)
        largest[place] = max(point, largest.get(place, point), key=lambda one: one[1])
    return [list(point) for point in largest.values()]


def _timeline(spans: Spans, result: dict[str, Any]) -> Figure:
    lanes = [lane for lane in spans if spans[lane]]
    figure = Figure(figsize=(12, 1.2 + 0.45 * len(lanes) + 1.5), layout="constrained", dpi=120)
    above, below = figure.subplots(nrows=2, sharex=True, height_ratios=(0.45 * len(lanes), 1.5))
    for place, lane in enumerate(lanes):
        bars = [(1e3 * start, 1e3 * (end - start)) for start, end in spans[lane]]
        above.broken_barh(bars, (place - 0.38, 0.76), facecolors=_COLORS[lane], edgecolor="white", linewidth=0.3)
    above.set_yticks(range(len(lanes)), lanes)
    above.invert_yaxis()
    above.set_xlim(0, 1e3 * result["seconds"])
    for number, (start, _) in enumerate(spans[WAIT]):
        for axes in (above, below):
            axes.axvline(1e3 * start, color="black", linewidth=0.6, alpha=0.5)
        above.text(1e3 * start, -0.55, f" {number}", fontsize=8, alpha=0.7)
    above.set_title(f"{result['steps']} steps from shards, {1e3 * result['seconds']:,.0f} ms")
    memory = np.array(result["memory"]).reshape(-1, 2)
    below.plot(1e3 * memory[:, 0], memory[:, 1] / 1e9, color="#0072b2", drawstyle="steps-post", linewidth=0.8)
    below.set(xlabel="milliseconds", ylabel="GB in use", ylim=(0, None))
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", alpha=0.3)
    return figure
