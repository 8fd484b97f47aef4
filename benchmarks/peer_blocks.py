"""The tables of loading, preparing and whole pipelines: ours against others, and our loader's settings."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from figures import Rates, fastest_first, median, result, spread, table, whole

from food101_fast.bench.measure import median_of_ratios


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
    return table(["peer", "where its settings are recommended"], ([name, source] for name, source in rows.items()))


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


PEER_BLOCKS: dict[str, Callable[[], str]] = {
    "peers-raw": lambda: peers("raw"),
    "peers-jpeg": lambda: peers("jpeg"),
    "sources": sources,
    "preparing": preparing,
    "pipelines-input": lambda: pipelines("input"),
    "pipelines-training": lambda: pipelines("training"),
    "loader": loader,
    "encodings": encodings,
}
"""By the name that a page asks for."""
