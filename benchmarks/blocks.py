"""The tables and figures of the READMEs, each a function of what lies in benchmarks/results."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import orjson

from food101_fast.bench.ceilings import share_text
from food101_fast.bench.measure import median_of_ratios
from food101_fast.bench.results import StageResult
from food101_fast.documents import convert

RESULTS = Path(__file__).resolve().parent / "results"

Rates = Sequence[float]


@functools.cache
def result(name: str) -> Any:
    """What a measurement left in benchmarks/results."""
    return orjson.loads((RESULTS / f"{name}.json").read_bytes())


def bench_stages(document: dict[str, Any]) -> dict[str, StageResult]:
    """The stages of a result of bench."""
    return convert(document["stages"], dict[str, StageResult], where="benchmarks/results", advice="measure again")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def whole(value: float) -> str:
    """A figure in words: 1,234."""
    return f"{value:,.0f}"


def median(rates: Rates) -> str:
    """The median of repetitions in words."""
    return whole(statistics.median(rates))


def spread(rates: Rates) -> list[str]:
    """Median and range in words."""
    return [median(rates), f"{whole(min(rates))} to {whole(max(rates))}"]


def fastest_first(rates: dict[str, Rates]) -> list[str]:
    """Names by their medians."""
    return sorted(rates, key=lambda name: -statistics.median(rates[name]))


def loaders(encoding: str) -> list[dict[str, Any]]:
    """The reports of all loaders that read an encoding, the fastest first."""
    reports = [report for report in result("peers-cpu")["loading"][encoding].values() if "error" not in report]
    return sorted(reports, key=lambda report: -statistics.median(report["images_per_second"]))


def loading(encoding: str, peer: str) -> Rates:
    """Images per second of a loader."""
    rates: Rates = result("peers-cpu")["loading"][encoding][peer]["images_per_second"]
    return rates


def named(report: dict[str, Any]) -> str:
    """A peer with its version; ours is bold."""
    if report["name"].startswith("food101_fast"):
        return f"**{report['name']}**"
    return f"{report['name']} {report.get('version', '')}".strip()


def peers(encoding: str) -> str:
    """Every loader on one encoding, the fastest first; what can't read it comes last."""
    found = result("peers-cpu")["loading"]
    rows = []
    if encoding == "raw":
        ceiling = found["memcpy_images_per_second"]
        rows.append(["rows copied one by one (memcpy), 1 thread: the ceiling of one core", *spread(ceiling), "1.0", ""])
    for report in loaders(encoding):
        cores = f"{statistics.median(report['busy_cores']):.1f}"
        rows.append([named(report), *spread(report["images_per_second"]), cores, report["how"]])
    rows += [
        [report["name"], "", "", "", report["error"]]
        for report in found[encoding].values()
        if "error" in report and not report["name"].startswith("ours")
    ]
    return table(["loader", "images/s", "lowest to highest", "busy cores", "how"], rows)


def sources() -> str:
    """Where the settings of each peer are recommended."""
    found = result("peers-cpu")
    rows: dict[str, str] = {}
    for encoding in ("raw", "jpeg"):
        for report in found["loading"][encoding].values():
            if "source" in report and not report["name"].startswith("food101_fast"):
                rows[f"loading, {named(report)}"] = report["source"]
    for about in found["preparing"]["about"].values():
        if "source" in about:
            rows[f"preparing, {named(about)}"] = about["source"]
    for name, source in found["pipelines"]["sources"].items():
        if source.startswith("https:") and ", 192 px" not in name:
            rows[f"pipeline, {name}"] = source
    return table(["peer", "where its settings are recommended"], ([name, place] for name, place in rows.items()))


PREPARING = {
    "prepare": "**`prepare`**, with finding duplicates, checking, hashing, drawing",
    "pillow": "a pool of processes with Pillow, webdataset's TarWriter",
    "pillow, draft": "a pool of processes with Pillow and its `draft`, webdataset's TarWriter",
    "decode": "simplejpeg and resize alone, nothing written: the ceiling",
}


def preparing() -> str:
    """Photographs made into a data set once: ours against others, the fastest first."""
    found = result("peers-cpu")["preparing"]
    rates = found["images_per_second"]
    rows = []
    for name in fastest_first(rates):
        about = found["about"].get(name, {})
        title = PREPARING.get(name) or f"{named(about)}: {about['how']}"
        ratio = f"{median_of_ratios(rates['prepare'], rates[name]):.2f}"
        rows.append([title, *spread(rates[name]), ratio])
    rows += [[name, "", "", reason] for name, reason in found["not_run"].items()]
    return table(["", "images/s", "lowest to highest", "`prepare` is so many times as fast"], rows)


def pipelines(kind: str) -> str:
    """Whole pipelines, without a model (`input`) or with one (`training`)."""
    rates = result("peers-cpu")["pipelines"]["images_per_second"][kind]
    rows = []
    for name in fastest_first(rates):
        title = f"**{name}**" if name == "food101_fast" else name
        rows.append([title, *spread(rates[name]), f"{median_of_ratios(rates['food101_fast'], rates[name]):.2f}"])
    rows += [[name, "", "", reason] for name, reason in result("peers-cpu")["pipelines"]["not_run"].items()]
    return table(["pipeline", "images/s", "lowest to highest", "ours is so many times as fast"], rows)


def loader() -> str:
    """Our loader's settings."""
    rows = [
        [name, *spread(one["images_per_second"]), f"{statistics.median(one['busy_cores']):.2f}"]
        for name, one in result("loader-cpu")["results"].items()
    ]
    return table(["setting", "images/s", "lowest to highest", "busy cores"], rows)


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


def stages() -> str:
    """Each stage of a training step, and its share of what the machine can do."""
    measured = bench_stages(result("stages-cpu"))
    rows = [[name, *spread(stage.repetitions), share_text(stage)] for name, stage in measured.items()]
    return table(["stage", "images/s", "lowest to highest", "of the machine's own"], rows)


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


def encodings() -> str:
    """What an image takes, and how fast it is read."""
    found = result("loader-cpu")
    rates = {"raw": loading("raw", "ours"), "jpeg": loading("jpeg", "ours")}
    titles = {"raw": "`raw`", "jpeg": "`jpeg --quality 90`"}
    rows = [
        [titles[name], whole(size), f"{size * 101_000 / 1e9:.1f} GB", median(rates[name])]
        for name, size in found["bytes_per_image"].items()
    ]
    return table(["encoding", "bytes per image", "all of Food-101", "loader, images/s"], rows)


def _listed(rates: Iterable[tuple[str, Rates]]) -> str:
    """Names and medians, of others than ours."""
    return "; ".join(f"{name} {median(of)}" for name, of in rates if not name.startswith("food101_fast"))


def _loader_rows(encoding: str, title: str) -> list[list[str]]:
    others = ((report["name"], report["images_per_second"]) for report in loaders(encoding))
    return [
        [title, median(loading(encoding, "ours"))],
        [
            "the same pictures and two threads or processes each, in the same run",
            _listed((name, rates) for name, rates in others if name != "the notebook"),
        ],
    ]


def _training_rows() -> list[list[str]]:
    found, stage = result("peers-cpu"), result("stages-cpu")["stages"]
    fed, trained = (found["pipelines"]["images_per_second"][kind] for kind in ("input", "training"))
    others = [name for name in trained if name != "food101_fast"]
    fixed = median(stage["step, fixed batch"]["repetitions"])
    ratios = ", ".join(f"{median_of_ratios(trained['food101_fast'], trained[name]):.2f}" for name in others)
    rows = [
        [
            "photographs to augmented, normalised batches of 160 px, two threads or processes",
            median(fed["food101_fast"]),
        ],
        ["the same, in the same run", _listed(fed.items())],
        [
            f"MobileNetV2 trained at 160 px from shards (with a batch already in memory: {fixed})",
            median(stage["step from shards"]["repetitions"]),
        ],
        [f"an epoch of MobileNetV2 at 160 px, ours as a multiple of: {', '.join(others)}", ratios],
    ]
    for one in found["steps"]["results"]:
        title = f"one training step of `{one['model']}` on a batch already in memory"
        ratios = ", ".join(f"{one['ours_over'][name]:.2f}" for name in CONTENDERS[1:])
        rows.append([f"{title}, as a multiple of bare, timm's, torchvision's", ratios])
    return rows


def _preparing_rows() -> list[list[str]]:
    prepared = result("peers-cpu")["preparing"]["images_per_second"]
    others = [name for name in ("pillow", "pillow, draft", "ffcv", "litdata", "huggingface") if name in prepared]
    every = result("prepare-64px-cpu")["results"][-1]
    return [
        ["`prepare`, photographs of 512 px to raw 192 px, 2 workers", median(prepared["prepare"])],
        [
            "in the same run: a pool with Pillow, the same with `draft`, FFCV's writer, LitData, datasets",
            ", ".join(median(prepared[name]) for name in others),
        ],
        ["simplejpeg and resize alone, nothing written: the ceiling, in the same run", median(prepared["decode"])],
        [
            f"`prepare`, {whole(every['written'])} pictures of 64 px from a local hub folder, 101 classes, all "
            f"included: {every['seconds']:.0f} s",
            whole(every["written"] / every["seconds"]),
        ],
    ]


def headline() -> str:
    """The figures that a reader looks for first."""
    held = median(result("loader-cpu")["results"]["jpeg: 1 thread, residence host"]["images_per_second"])
    two = median(loading("raw", "ours_threads"))
    rows = [
        *_loader_rows("raw", f"loader: raw 192 px rows, shuffled, warm cache, one thread (two threads: {two})"),
        *_loader_rows(
            "jpeg", f"loader: JPEG of 192 px, quality 90, two threads (held in RAM after the first epoch: {held})"
        ),
        *_training_rows(),
        *_preparing_rows(),
    ]
    return table(["what", "images/s"], rows)


def megabytes(limit: int, kind: str) -> Callable[[], str]:
    """Memory of prepare for one of its limits."""
    return lambda: whole(result("prepare-64px-cpu")["results"][limit][kind] / 1e6)


def scaling_measured() -> str:
    """What SCALING.md reckons with."""
    size = result("loader-cpu")["bytes_per_image"]
    settings = result("loader-cpu")["results"]
    found = result("scaling-cpu")
    manifest, windows, orders = found["manifest"]["result"], found["windows"]["result"], found["whole"]
    raw = statistics.median(loading("raw", "ours"))
    seconds = " / ".join(f"{one['seconds']:.2g}" for one in orders["result"])
    peak = f"{orders['peak_bytes'] / 1e9:.1f} GB at the most for the last"
    rows = [
        [
            "one image of 192 px: raw / JPEG of quality 90, with its headers",
            f"{whole(size['raw'])} / {whole(size['jpeg'])} bytes",
        ],
        [
            "loader, raw rows out of the page cache, one thread",
            f"{whole(raw)} images/s, {raw * size['raw'] / 1e9:.1f} GB/s",
        ],
        ["loader, JPEG, one thread", f"{median(settings['jpeg: 1 threads']['images_per_second'])} images/s"],
        ["index of a sample", "32 bytes"],
        [
            f"manifest of 10,000 shards and {whole(manifest['classes'])} classes",
            f"{manifest['bytes'] / 1e6:.1f} MB, parsed in {1e3 * manifest['parse_seconds']:.0f} ms; "
            f"{manifest['bytes_per_shard']:.0f} bytes per shard",
        ],
        [
            "order of an epoch of 10^9 samples, window 10^6: made in / each window",
            f"{1e3 * windows['order_seconds']:.0f} ms / {windows['seconds_per_window']:.2f} s, "
            f"{found['windows']['peak_bytes'] / 1e6:.0f} MB at the most",
        ],
        ["order without a window (the default), 10^6 / 10^7 / 10^8 samples", f"{seconds} s; {peak}"],
        ["every id exactly once over 512 ranks", "yes, over a window's steps" if windows["every_id_once"] else "no"],
        [
            "shards of a window, and how many of them one rank needs",
            f"{windows['shards_of_a_window']}, {windows['shards_that_one_rank_reads_of_it']}",
        ],
    ]
    return table(["measured", ""], rows)


BLOCKS: dict[str, Callable[[], str]] = {
    "peers-raw": lambda: peers("raw"),
    "peers-jpeg": lambda: peers("jpeg"),
    "sources": sources,
    "preparing": preparing,
    "pipelines-input": lambda: pipelines("input"),
    "pipelines-training": lambda: pipelines("training"),
    "loader": loader,
    "transforms": transforms,
    "presets": preset_rates,
    "kornia-lead": kornia_lead,
    "thread-gains": thread_gains,
    "exactness": exactness,
    "float16-error": lambda: f"{result('exactness-cpu')['errors']['RandomResizedCrop']['float16']['largest']:.2f}",
    "resizing": resizing,
    "stages": stages,
    "stage-sums": stage_sums,
    "steps": steps,
    "accuracy": accuracy,
    "accuracy-64px-errors": lambda: "{0[difference]:.4f} at a standard error of {0[standard_error]:.4f}".format(
        result("accuracy-64px-cpu")["agreement"]
    ),
    "encodings": encodings,
    "headline": headline,
    "prepare-images": lambda: whole(result("prepare-64px-cpu")["results"][-1]["written"]),
    "prepare-private": megabytes(-1, "private_bytes"),
    "prepare-pss": megabytes(-1, "pss_bytes"),
    "prepare-private-25000": megabytes(0, "private_bytes"),
    "scaling-measured": scaling_measured,
    "verdict": lambda: f"```text\n{result('stages-cpu')['verdict']['sentence']}\n```",
}
"""By the name that a README asks for."""
