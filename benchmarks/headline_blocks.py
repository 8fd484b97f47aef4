"""The figures that a reader looks for first, and those that docs/scaling.md starts from."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable

from figures import Rates, median, result, table, whole
from peer_blocks import loaders, loading
from training_blocks import CONTENDERS

from food101_fast.bench.measure import median_of_ratios


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
            "photographs to augmented, normalized batches of 160 px, two threads or processes",
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
    in_memory = median(result("loader-cpu")["results"]["jpeg: 1 thread, residence host"]["images_per_second"])
    two = median(loading("raw", "ours_threads"))
    rows = [
        *_loader_rows("raw", f"loader: raw 192 px rows, shuffled, warm cache, one thread (two threads: {two})"),
        *_loader_rows(
            "jpeg", f"loader: JPEG of 192 px, quality 90, two threads (kept in RAM after the first epoch: {in_memory})"
        ),
        *_training_rows(),
        *_preparing_rows(),
    ]
    return table(["what", "images/s"], rows)


def megabytes(limit: int, kind: str) -> Callable[[], str]:
    """Memory of prepare for one of its limits."""
    return lambda: whole(result("prepare-64px-cpu")["results"][limit][kind] / 1e6)


def scaling_measured() -> str:
    """What docs/scaling.md reckons with."""
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


HEADLINE_BLOCKS: dict[str, Callable[[], str]] = {
    "headline": headline,
    "prepare-images": lambda: whole(result("prepare-64px-cpu")["results"][-1]["written"]),
    "prepare-private": megabytes(-1, "private_bytes"),
    "prepare-pss": megabytes(-1, "pss_bytes"),
    "prepare-private-25000": megabytes(0, "private_bytes"),
    "scaling-measured": scaling_measured,
}
"""By the name that a page asks for."""
