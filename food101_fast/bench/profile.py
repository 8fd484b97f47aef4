"""Ten training steps under torch's profiler: a trace, the costliest operators, and a figure of who waits for whom."""

from __future__ import annotations

import contextlib
import gzip
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import orjson
from torch.profiler import ProfilerActivity, profile, record_function

from food101_fast.bench.measure import wait_for
from food101_fast.bench.settings import BenchSettings
from food101_fast.bench.stages import Subject
from food101_fast.bench.works import endless
from food101_fast.documents import parse
from food101_fast.loader import Batch
from food101_fast.plots import plot_timeline, png
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
COPIES, KERNELS = "copies on the device", "kernels on the device"
LANES = (LOADER, WAIT, COPIES, KERNELS, TRANSFORMS, BACKWARD, OPTIMIZER)
"""Of the timeline, from top to bottom."""

Span = tuple[float, float]
"""Begin and end, in seconds from the first step's begin."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What `profile.json` contains."""

    steps: int
    seconds: float
    """Of all steps together."""
    lanes: dict[str, float]
    """Seconds that each lane of the timeline was busy; lanes in which nothing happened are left out."""
    kernel_gap_share: float | None
    """Share of the time between the first and the last kernel in which no kernel ran; None without a GPU."""
    memory: list[tuple[float, float]]
    """Points in time, in seconds, and the bytes in use then, on the GPU if there is one."""


class EventArguments(msgspec.Struct, frozen=True, kw_only=True):
    """The arguments of an event that are read; only memory events have them."""

    device_type: int = msgspec.field(name="Device Type", default=0)
    """0 is the CPU, 1 CUDA."""
    total_allocated: float = msgspec.field(name="Total Allocated", default=0.0)
    """Bytes in use after the event."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """An event of a trace in Kineto's JSON."""

    name: str = ""
    cat: str = ""
    """Category."""
    ts: float = 0.0
    """Begin, in microseconds."""
    dur: float = 0.0
    """Duration, in microseconds."""
    args: EventArguments = EventArguments()


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """A trace in Kineto's JSON."""

    events: list[Event] = msgspec.field(name="traceEvents")


class _Recorder:
    """Records spans of time by lane; also observes the loader, whose threads the profiler does not see."""

    def __init__(self) -> None:
        self._spans: dict[str, list[Span]] = {lane: [] for lane in LANES}

    def gathered(self, begin: float, end: float) -> None:
        """Record when a thread of the loader gathered or decoded."""
        self._spans[LOADER].append((begin, end))

    @contextlib.contextmanager
    def recording(self, lane: str) -> Iterator[None]:
        """Record how long the block takes, here and in the profiler's trace."""
        start = time.perf_counter()
        with record_function(lane):
            yield
        self._spans[lane].append((start, time.perf_counter()))

    def between(self, begin: float, end: float) -> dict[str, list[Span]]:
        """The spans that overlap this time, in seconds from `begin`."""
        return {
            lane: [(start - begin, stop - begin) for start, stop in spans if stop > begin and start < end]
            for lane, spans in self._spans.items()
        }


def profile_steps(settings: BenchSettings, folder: Path) -> Profile:
    """Profile ten steps from shards.

    Writes into `folder`: `trace.json.gz` for https://ui.perfetto.dev, `operators.txt` (the ten costliest),
    `timeline.png` and `profile.json`. Profiling slows steps down: for rates use bench without it.

    Args:
        settings: what is profiled.
        folder: created if it is missing; an earlier profile in it is replaced.

    Returns:
        What `profile.json` contains.

    Raises:
        UserError: the folder can't be written, or the shards, the run, the model or the device can't be used.
    """
    with writing(folder, _ADVICE):
        folder.mkdir(parents=True, exist_ok=True)
    subject = Subject(settings)
    profiler, spans, seconds = _recorded(subject)
    trace = _exported(profiler)
    events = parse(gzip.decompress(trace), Trace, where=TRACE_NAME, advice="profile again").events
    zero = _beginning(events)
    spans[KERNELS], spans[COPIES] = _spans_of(events, "kernel", zero), _spans_of(events, "gpu_memcpy", zero)
    device = "cuda" if subject.device.type == "cuda" else "cpu"
    operators = profiler.key_averages()
    operators[:] = [operator for operator in operators if not operator.is_user_annotation]
    table = operators.table(sort_by=f"self_{device}_time_total", row_limit=_OPERATORS, max_name_column_width=40)
    result = Profile(
        steps=STEPS,
        seconds=seconds,
        lanes={lane: sum(end - start for start, end in of_lane) for lane, of_lane in spans.items() if of_lane},
        kernel_gap_share=_gap_share(spans[KERNELS]),
        memory=_memory(events, zero),
    )
    starts = [start for start, _ in spans[WAIT]]
    with writing(folder, _ADVICE):
        write_atomically(folder / TRACE_NAME, trace)
        write_atomically(folder / "operators.txt", table.encode())
        write_atomically(folder / "profile.json", orjson.dumps(asdict(result), option=orjson.OPT_INDENT_2))
        write_atomically(folder / "timeline.png", png(plot_timeline(spans, result.memory, starts, seconds)))
    return result


def _exported(profiler: profile) -> bytes:
    """The trace as gzipped JSON. torch can only write it into a file, and not atomically."""
    with tempfile.TemporaryDirectory() as scratch, writing(scratch, _ADVICE):
        path = Path(scratch) / TRACE_NAME
        profiler.export_chrome_trace(str(path))
        return path.read_bytes()


def _recorded(subject: Subject) -> tuple[profile, dict[str, list[Span]], float]:
    """Run ten steps under the profiler; returns it, the host's spans, and the seconds that the steps took."""
    activities = [ProfilerActivity.CPU]
    if subject.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    recorder = _Recorder()
    subject.loader.observer = recorder
    batches = endless(subject.loader)
    for _ in range(_WARM_UP):
        subject.step(next(batches), 0)
    wait_for(subject.device)
    with profile(activities=activities, profile_memory=True) as profiler:
        begin = time.perf_counter()
        for number in range(STEPS):
            with record_function(f"step {number}"):
                _step(subject, batches, recorder)
        wait_for(subject.device)
        end = time.perf_counter()
    return profiler, recorder.between(begin, end), end - begin


def _step(subject: Subject, batches: Iterator[Batch], recorder: _Recorder) -> None:
    with recorder.recording(WAIT):
        batch = next(batches)
    with recorder.recording(TRANSFORMS):
        images, labels = subject.step.augment(batch, 0)
    with recorder.recording(BACKWARD):
        subject.step.backward(images, labels)
    with recorder.recording(OPTIMIZER):
        subject.step.apply()


def _beginning(events: Sequence[Event]) -> float:
    """When the host began step 0, in seconds of the trace.

    With CUDA each annotation is in the trace twice: on the host as a user_annotation, and as a gpu_user_annotation
    from the begin of its first kernel. The device runs behind the host, and the host's lanes begin at its step 0.
    """
    return next(event.ts for event in events if event.cat == "user_annotation" and event.name == "step 0") / 1e6


def _spans_of(events: Sequence[Event], category: str, zero: float) -> list[Span]:
    chosen = (event for event in events if event.cat == category)
    return [(event.ts / 1e6 - zero, (event.ts + event.dur) / 1e6 - zero) for event in chosen]


def _gap_share(kernels: Sequence[Span]) -> float | None:
    """The share of the time from the first kernel's begin to the last one's end in which no kernel ran."""
    if not kernels:
        return None
    ordered = sorted(kernels)
    covered, reached = 0.0, ordered[0][0]
    for start, end in ordered:
        covered += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return 1 - covered / (reached - ordered[0][0])


def _memory(events: Sequence[Event], zero: float) -> list[tuple[float, float]]:
    """Bytes in use over time, on the GPU if there is one, from the profiler's event for each allocation."""
    allocations = [event for event in events if event.name == "[memory]"]
    device = max((event.args.device_type for event in allocations), default=0)
    points = sorted(
        (event.ts / 1e6 - zero, event.args.total_allocated) for event in allocations if event.args.device_type == device
    )
    # There are thousands in a step: of each of a thousand intervals the largest is kept.
    interval = max((points[-1][0] - points[0][0]) / _MEMORY_POINTS, 1e-9) if points else 1.0
    largest: dict[int, tuple[float, float]] = {}
    for point in points:
        index = int((point[0] - points[0][0]) / interval)
        largest[index] = max(point, largest.get(index, point), key=lambda one: one[1])
    return list(largest.values())
