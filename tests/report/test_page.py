"""The report in a real browser: nothing fails to load, nothing asks a network, tables sort, and it fits a phone."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from scipy.special import softmax
from scipy.stats import binomtest

from food101_fast.evaluate import evaluate, evaluate_ensemble
from food101_fast.prepare import PrepareSettings, prepare
from food101_fast.report import write_comparison, write_report
from food101_fast.runs.evaluation import read_predictions
from food101_fast.shards import ShardSet
from food101_fast.train import Recipe, train
from tests.conftest import write_folder

ODD = '<b>bold & "quoted"'
PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs a browser: install chromium")


def trained(folder: Path, shards: Path, seed: int) -> Path:
    recipe = Recipe(
        model="shufflenet_v2_x0_5",
        weights="none",
        image_size=32,
        epochs=2,
        batch_size=64,
        learning_rate=1e-3,
        seed=seed,
    )
    train(ShardSet.open(shards), folder, recipe, device="cpu")
    evaluate(folder, device="cpu")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two seeds on three classes, of which one has a name that HTML would take for more; averaged."""
    folder = tmp_path_factory.mktemp("few")
    write_folder(folder / "images", {"ramen": 60, ODD: 50, "tacos": 50})
    prepare(PrepareSettings(source=f"folder:{folder / 'images'}", out=folder / "shards", size=32, workers=1))
    made = [trained(folder / f"seed-{seed}", folder / "shards", seed) for seed in range(2)]
    evaluate_ensemble(made)
    for run in made:
        write_report(run)
    return made


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """101 classes."""
    folder = tmp_path_factory.mktemp("many")
    write_folder(folder / "images", {f"dish_with_a_long_name_{i:03d}": 10 for i in range(101)}, width=32, height=32)
    prepare(PrepareSettings(source=f"folder:{folder / 'images'}", out=folder / "shards", size=32, workers=1))
    run = trained(folder / "run", folder / "shards", 0)
    write_report(run)
    return run


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=PROGRAM, args=FLAGS)
        yield opened
        opened.close()


class Opened:
    """A page, and what went wrong on it."""

    def __init__(self, browser: Browser, path: Path, width: int, scheme: Any) -> None:
        self.page: Page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        self.messages: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri(), wait_until="load")


@pytest.fixture
def look(browser: Browser) -> Iterator[Callable[..., Opened]]:
    """Opens a file: `look(path, width=375, scheme="dark")`; afterwards nothing may have gone wrong on it."""
    opened: list[Opened] = []

    def open_page(path: Path, *, width: int = 1280, scheme: str = "light") -> Opened:
        opened.append(Opened(browser, path, width, scheme))
        return opened[-1]

    yield open_page
    for one in opened:
        assert one.messages == []
        assert [url for url in one.requests if not url.startswith("data:")] == [one.page.url.partition("#")[0]]
        one.page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
@pytest.mark.parametrize("which", ["few", "many", "comparison"])
def test_it_opens_and_fits(
    runs: list[Path], many: Path, look: Callable[..., Opened], which: str, width: int, scheme: str, tmp_path: Path
) -> None:
    path = {"few": runs[0] / "report.html", "many": many / "report.html"}.get(which)
    if path is None:
        path = write_comparison(runs, tmp_path / "comparison.html")
    assert path.stat().st_size < 5e6
    page = look(path, width=width, scheme=scheme).page
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
    assert page.evaluate("document.images.length") >= (0 if which == "comparison" else 10)
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
    # Charts follow the style: a line has the colour that the style sheet gives it.
    line = "document.querySelector('.charts svg path[style*=\"--series-1\"]')"
    assert page.evaluate(f"getComputedStyle({line}).stroke") == ("rgb(79, 176, 234)" if dark else "rgb(0, 114, 178)")


def test_classes_sort_by_each_column(runs: list[Path], look: Callable[..., Opened]) -> None:
    page = look(runs[0] / "report.html").page
    per_class = orjson.loads((runs[0] / "test_metrics.json").read_bytes())["per_class"]
    table = page.locator("table.sortable")

    def shown(column: int) -> list[str]:
        return table.locator(f"tbody td:nth-child({column})").all_inner_texts()

    table.get_by_role("button", name="class").click()
    assert shown(1) == sorted((name.replace("_", " ") for name in per_class), key=str.lower)
    table.get_by_role("button", name="class").click()
    assert shown(1) == sorted((name.replace("_", " ") for name in per_class), key=str.lower, reverse=True)
    assert table.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"
    for place, key in ((3, "precision"), (4, "recall"), (5, "f1")):
        table.locator(f"th:nth-child({place}) button").click()
        known = sorted((entry[key] for entry in per_class.values() if entry[key] is not None), reverse=True)
        missing = ["-"] * (len(per_class) - len(known))
        assert shown(place) == [f"{value:.4f}" for value in known] + missing
        table.locator(f"th:nth-child({place}) button").click()
        assert shown(place) == [f"{value:.4f}" for value in known[::-1]] + missing


def test_a_cell_of_the_matrix_tells_what_it_is(runs: list[Path], look: Callable[..., Opened]) -> None:
    page = look(runs[0] / "report.html").page
    stored = read_predictions(runs[0], "test")
    labels, logits = stored.labels, stored.logits
    counts = np.zeros((3, 3), int)
    np.add.at(counts, (labels, logits.argmax(1)), 1)
    box = page.locator(".matrix image").bounding_box()
    assert box is not None
    names = orjson.loads((runs[0] / "recipe.json").read_bytes())["classes"]
    page.locator(".matrix").scroll_into_view_if_needed()
    for true in range(3):
        for predicted in range(3):
            page.locator(".matrix image").hover(
                position={"x": (predicted + 0.5) * box["width"] / 3, "y": (true + 0.5) * box["height"] / 3},
                force=True,  # a number lies over it
            )
            total = counts[true].sum()
            what = "recognized" if true == predicted else f"taken for {names[predicted]}"
            share = f"{100 * counts[true, predicted] / total:.1f} %"
            expected = f"{names[true]}: {counts[true, predicted]} of {total} ({share}) {what}"
            assert page.locator(".told").inner_text() == expected


def test_labels_of_101_classes_do_not_overlap(many: Path, look: Callable[..., Opened]) -> None:
    page = look(many / "report.html").page
    boxes = page.evaluate(
        "[...document.querySelectorAll('.matrix text')].map(one => one.getBoundingClientRect())"
        ".map(box => [box.left, box.top, box.right, box.bottom])"
    )
    assert len(boxes) == 202
    left, top, right, bottom = np.array(boxes).T
    for near, far in ((top[0::2], bottom[0::2]), (left[1::2], right[1::2])):  # rows, and then columns
        assert (near[1:] >= far[:-1] - 2.5).all()  # a line is a little higher than its letters
        assert (far - near >= 9).all()
    picture = page.locator(".matrix image").bounding_box()
    assert picture is not None
    assert right[0::2].max() <= picture["x"]


def test_names_and_numbers_are_those_of_the_run(runs: list[Path], look: Callable[..., Opened]) -> None:
    page = look(runs[0] / "report.html").page
    metrics = orjson.loads((runs[0] / "test_metrics.json").read_bytes())
    text = page.locator("body").inner_text().replace("\xa0", " ")
    assert ODD in text
    assert page.locator("main b b").count() == 0
    for part in (
        f"{100 * metrics['top1']:.2f} %",
        f"{metrics['macro_f1']:.4f}",
        f"{metrics['calibration']['ece']:.4f}",
        "shufflenet_v2_x0_5",
        "learning rate",
        "torchvision",
    ):
        assert part in text
    pair = metrics["confused"][0]
    assert f"{pair['true'].replace('_', ' ')} taken for {pair['predicted'].replace('_', ' ')}" in text
    wrong = round(metrics["samples"] * (1 - metrics["top1"]))
    assert page.locator(".mistakes img").count() == min(wrong, 24)


def test_the_average_of_two_runs_is_in_the_report(runs: list[Path], look: Callable[..., Opened]) -> None:
    held = [read_predictions(run, "test") for run in runs]
    mean = np.mean([softmax(stored.logits.astype(np.float64), axis=1) for stored in held], axis=0)
    top1 = (mean.argmax(1) == held[0].labels).mean()
    loss = -np.log(mean[np.arange(len(mean)), held[0].labels]).mean()
    section = look(runs[0] / "report.html").page.locator("#average + p + div")
    assert section.locator("tr").count() == 4
    cells = section.locator("tr").last.locator("td").all_inner_texts()
    assert cells[0] == "average of 2"
    assert cells[1] == f"{top1:.4f}"
    assert len(cells) == 3  # of three classes there is no top-5
    assert float(cells[2]) == pytest.approx(loss, abs=1e-4)


def test_a_comparison_tests_whether_runs_differ(runs: list[Path], look: Callable[..., Opened], tmp_path: Path) -> None:
    page = look(write_comparison(runs, tmp_path / "comparison.html")).page
    right = []
    for run in runs:
        stored = read_predictions(run, "test")
        labels, logits = stored.labels, stored.logits
        right.append(logits.argmax(1) == labels)
    only = int((right[0] & ~right[1]).sum()), int((~right[0] & right[1]).sum())
    p = binomtest(only[0], sum(only)).pvalue if sum(only) else 1.0
    text = page.locator("main").inner_text()
    assert f"seed-0 alone gets {only[0]} right, and seed-1 alone {only[1]}" in text
    assert f"p = {p:.3g}" in text
    assert page.locator("table").nth(1).locator("tr").nth(1).locator("td").all_inner_texts() == ["seed", "0", "1"]
