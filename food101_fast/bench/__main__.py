"""`python -m food101_fast.bench`: the bottleneck of training, the rate of each stage, comparisons and profiles."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import orjson
import tyro

from food101_fast.bench.ceilings import MATRIX
from food101_fast.bench.compare import compare, differing_settings, read_result
from food101_fast.bench.doctor import diagnose
from food101_fast.bench.profile import TRACE_NAME, profile_steps
from food101_fast.bench.progress import Progress
from food101_fast.bench.results import BenchResult, to_document
from food101_fast.bench.settings import BenchSettings, check_folder
from food101_fast.bench.stages import GROUPS, run_bench
from food101_fast.bench.sweep import parse_sweep, run_sweep, sweep_table, write_sweep_plot
from food101_fast.cli import exit_with, parse
from food101_fast.errors import UserError
from food101_fast.progress import Output, shown
from food101_fast.storage import write_atomically, writing
from food101_fast.terminal import show

# Titles in the help, and their fields. The others are the commonest, and come first.
GROUPS_OF_FLAGS = {
    "data": ("overlay", "preset", "mixup_alpha", "cutmix_alpha", "erasing", "window"),
    "speed": ("amp", "compile", "residence", "threads", "prefetch", "decode", "verify"),
    "measurement": ("seconds", "repetitions", "plot", "quiet"),
}


@dataclass(frozen=True, kw_only=True)
class DoctorSettings(BenchSettings):
    """Measure each stage of training alone and all together, and name the bottleneck.

    `bench loader`, `bench transforms` and `bench train` measure only these stages. `bench compare A.json B.json` says
    what changed between two results.
    """

    sweep: str | None = None
    """Measure several values of one setting, as batch_size=64,128,256 (or image_size, threads, prefetch, model)."""
    plot: Path | None = None
    """PNG file for a plot of the rates; needs --sweep."""
    profile: Path | None = None
    """Profile ten steps instead of measuring: folder for a trace (Perfetto), the slowest operators and a timeline."""
    quiet: bool = False
    """Show no progress: only the result, warnings and errors."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.plot is not None and self.sweep is None:
            raise UserError("--plot needs --sweep")
        check_folder(self.plot, "--plot")
        if self.profile is not None and self.sweep is not None:
            raise UserError("--profile and --sweep cannot be combined; leave one out")
        if self.profile is not None and self.json is not None:
            raise UserError("--profile writes a profile.json of its own; leave --json out")


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """Say which stages became faster or slower between two results of bench; exit code 1 if any did.

    Differences that are within the spread of the repetitions are not reported.
    """

    before: tyro.conf.Positional[Path]
    """Result of the first measurement, written with --json."""
    after: tyro.conf.Positional[Path]
    """Result of the second measurement."""


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    name = argv[0] if argv and argv[0] in ("doctor", "compare", *GROUPS) else None
    arguments = argv[1:] if name is not None else argv
    if name == "compare":
        _compare(parse(CompareSettings, "bench compare", arguments))
        return
    settings = parse(DoctorSettings, "bench" if name is None else f"bench {name}", arguments, groups=GROUPS_OF_FLAGS)
    stages = GROUPS.get(name or "")
    if settings.profile is not None:
        if name in ("loader", "transforms"):
            raise UserError(f"--profile records training steps, and bench {name} has none; use it with bench train")
        _profile(settings, settings.profile)
        return
    begun = time.perf_counter()
    with shown(Output(quiet=settings.quiet)):
        if settings.sweep is not None:
            document: object = [to_document(one) for one in _sweep(settings, settings.sweep, stages, begun)]
        else:
            document = to_document(_measure(settings, stages, begun))
    if settings.json is not None:
        content = orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        with writing(settings.json, "or give another --json"):
            write_atomically(settings.json, content)
        print(settings.json)


def _measure(settings: BenchSettings, stages: tuple[str, ...] | None, begun: float) -> BenchResult:
    with Progress(begun) as progress:
        result = run_bench(settings, stages, progress=progress)
    if stages is None:
        result = replace(result, verdict=diagnose(result.findings, result.provenance.machine))
    show(format_table(result))
    if result.verdict is not None:
        show(result.verdict.sentence)
    return result


def _sweep(settings: DoctorSettings, sweep: str, stages: tuple[str, ...] | None, begun: float) -> list[BenchResult]:
    swept, values = parse_sweep(sweep)
    results = run_sweep(settings, swept, values, stages, begun)
    print(sweep_table(swept, values, results))
    if settings.plot is not None:
        write_sweep_plot(swept, values, results, settings.plot)
        print(settings.plot)
    return results


def format_table(result: BenchResult) -> str:
    """The stages as a table for the terminal: median and range in images per second, and the share of the limit."""
    findings = result.findings
    lines = [_conditions(result), f"{'stage':<24}{'images/s':>11}{'lowest':>11}{'highest':>11}  of hardware limit"]
    for name, stage in findings.stages.items():
        rates = stage.repetitions
        share = "" if stage.share_of_ceiling is None else f"  {stage.share_of_ceiling:>4.0%} {stage.ceiling}"
        lines.append(f"{name:<24}{stage.images_per_second:>11,.1f}{min(rates):>11,.1f}{max(rates):>11,.1f}{share}")
    for name, ceiling in findings.ceilings.items():
        unit = "GFLOP/s" if name == MATRIX else "GB/s"
        lines.append(f"{name}: {ceiling.per_second / 1e9:,.1f} {unit}")
    if findings.cold_read is not None:
        lines.append(f"shards that are not in memory: {findings.cold_read.bytes_per_second / 1e9:,.2f} GB/s")
    lines.append(f"loader: residence {findings.loading.residence}, {findings.loading.residence_reason}")
    if findings.parts_over_fixed_batch is not None:
        lines.append(
            f"transforms, forward + backward and optimizer add up to {findings.parts_over_fixed_batch:.2f} of the "
            "step on a fixed batch"
        )
    repetitions = len(next(iter(findings.stages.values())).repetitions)
    lines.append(
        f"{repetitions} repetition{_s(repetitions)} of each, {result.timing.repetition:.2g} s or one batch "
        f"long, in {result.timing.all:.0f} s"
    )
    lines += result.remarks
    if result.provenance.busy:
        others = f"{result.provenance.others_share:.0%}"
        lines.append(f"other programs used {others} of the processors meanwhile: measure again on an idle machine")
    return "\n".join(lines)


def _conditions(result: BenchResult) -> str:
    """What was measured, and on what."""
    machine, recipe, loading = result.provenance.machine, result.findings.settings.recipe, result.findings.loading
    return (
        f"{machine.device}, {machine.cores} core{_s(machine.cores)}, "
        f"torch {result.provenance.versions['torch']}; {recipe.model}, "
        f"{loading.encoding} {loading.stored_size} -> {recipe.image_size} px, batch {recipe.batch_size}, "
        f"{result.findings.precision}, {loading.threads} loader thread{_s(loading.threads)}"
    )


def _s(number: int) -> str:
    """The ending of a plural."""
    return "s" if number > 1 else ""


def _profile(settings: BenchSettings, folder: Path) -> None:
    result = profile_steps(settings, folder)
    print((folder / "operators.txt").read_text())
    for lane, seconds in result.lanes.items():
        print(f"{lane:<26}{1e3 * seconds / result.steps:>10,.1f} ms per step")
    if result.kernel_gap_share is not None:
        print(f"{result.kernel_gap_share:.1%} of the time no kernel ran")
    for name in (TRACE_NAME, "operators.txt", "timeline.png", "profile.json"):
        print(folder / name)
    print(f"open {TRACE_NAME} at https://ui.perfetto.dev; profiled steps are slower than others")


def _compare(settings: CompareSettings) -> None:
    before, after = read_result(settings.before), read_result(settings.after)
    for note in differing_settings(before, after):
        print(note)
    changes = compare(before, after)
    print(f"{'stage':<26}{'images/s':>12}{'images/s':>12}{'ratio':>8}{'p':>9}")
    for change in changes:
        mark = ""
        if change.changed:
            mark = "  faster" if change.ratio > 1 else "  slower"
        print(
            f"{change.stage:<26}{change.before:>12,.1f}{change.after:>12,.1f}{change.ratio:>8.2f}{change.p:>9.4f}{mark}"
        )
    changed = [change for change in changes if change.changed]
    if not changed:
        print("no change beyond the spread of the repetitions (ratios are relative to the hardware limits)")
        return
    print("changed: " + ", ".join(f"{change.stage} ({change.ratio - 1:+.0%})" for change in changed))
    raise SystemExit(1)


if __name__ == "__main__":
    exit_with(main)
