r"""Names with any characters are drawn as far as fonts have them: no formula, no warning, no picture that explodes.

Public reports: telperion/nine-or-null#14 and rueckstiess/mtools#613 (a pair of dollars is a formula, or an exception of
its parser), ultralytics/yolov5#6522 ("Glyph 31888 missing from current font" for Chinese classes),
fbdesignpro/sweetviz#23 (fifteen such warnings).
"""

from __future__ import annotations

import io
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.text import Text
from PIL import Image, ImageDraw

from food101_fast import fonts
from food101_fast.evaluate import evaluate
from food101_fast.plots import plot_class_counts, plot_confusion, png
from food101_fast.prepare import PrepareSettings, overview, prepare
from food101_fast.report import write_comparison, write_report
from food101_fast.report.charts import line_chart
from food101_fast.shards import ShardSet
from food101_fast.train import Recipe, train
from tests.conftest import write_folder

NAMES = (
    *("cheap $5 or $10", r"a\frac{1}{2}$x_1^2$", "100 % beef", "$", "_hidden", "{braces}", r"\$", "a^b_c"),
    *("麻婆豆腐", "😀 emoji 🍕", "ไทย", "Crème brûlée", "a\nb\tc", "<script>alert(1)</script>", "\"quoted\" & 'so'"),
    *("x" * 200, "日" * 200, "word " * 40, "👩‍👩‍👧 and ❤️", "e\u0301\u0301"),
)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if isinstance(text, Text)]


def size(data: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(data)) as image:
        return image.size


def test_pictures_show_the_names(recwarn: pytest.WarningsRecorder) -> None:
    figure = plot_confusion(np.eye(len(NAMES)), NAMES)
    data = png(figure, tight=True)
    counts = plot_class_counts({"train": [3] * len(NAMES), "val": [1] * len(NAMES)}, NAMES)
    assert max(*size(data), *size(png(counts))) < 3000
    assert not recwarn.list
    for drawn in (texts(figure), texts(counts)):
        assert r"cheap \$5 or \$10" in drawn  # as matplotlib wants dollars that are dollars
        assert "100 % beef" in drawn
        assert "Crème brûlée" in drawn
        assert any(text.startswith("xxx") and "…" in text for text in drawn)


def test_dollars_are_drawn_and_are_not_a_formula() -> None:
    def width(name: str) -> int:
        figure = plot_class_counts({"train": [1]}, [name])
        figure.draw_without_rendering()
        label = next(text for text in figure.findobj(Text) if isinstance(text, Text) and "bc" in text.get_text())
        return round(label.get_window_extent().width)

    assert width("$a^bc$") > width("a^bc")


@given(st.lists(st.text(max_size=60), min_size=1, max_size=8, unique=True))
def test_any_text_can_be_drawn(names: list[str]) -> None:
    families = fonts.families_for(names)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = Figure(figsize=(2, 2))
        for name in names:
            drawn = fonts.drawable(fonts.short(name), families)
            assert "\n" not in drawn
            figure.text(0, 0, drawn.replace("$", r"\$"), family=families)
        png(figure)
        sheet = overview._Sheet("\n".join(names), 1, 1, 128, lines=len(names))
        sheet.put(0, 0, None, names)


@given(st.text(max_size=300), st.integers(8, 60))
@example("0000000000000\u07b2\u0e5c000\u083f\u2db7\u4e00\u4e00", 23)
@example("\u4e00" * 40, 23)
def test_short_names_stay_and_long_ones_keep_both_ends(name: str, most: int) -> None:
    cut = fonts.short(name, most)
    if fonts.columns(name) <= most:
        assert cut == name
    else:
        head, tail = cut.rsplit("…", 1) if not name.endswith("…") else (cut[:1], cut[-1:])
        assert most - 3 <= fonts.columns(cut) <= most
        assert name.startswith(head)
        assert name.endswith(tail)


def test_a_font_of_the_machine_draws_what_matplotlibs_own_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """With another font that comes with matplotlib, in place of a Chinese one that the machine may not have."""
    other = fontManager.findfont("STIXNonUnicode")
    own = fonts._path("DejaVu Sans")
    char = next(
        chr(code) for code in range(0xE000, 0xF8FF) if fonts._has(other, chr(code)) > fonts._has(own, chr(code))
    )
    monkeypatch.setattr(fonts, "_others", dict)
    assert fonts.families_for([char]) == ["DejaVu Sans"]
    assert fonts.drawable(f"a{char}", ["DejaVu Sans"]) == "a\u25a1"
    monkeypatch.setattr(fonts, "_others", lambda: {"STIXNonUnicode": other})
    families = fonts.families_for([char, "plain"])
    assert families == ["DejaVu Sans", "STIXNonUnicode"]
    assert fonts.drawable(f"a{char}", families) == f"a{char}"
    assert fonts.runs(f"a{char}b", families) == [(own, "a"), (other, char), (own, "b")]
    assert fonts.families_for(["plain"]) == ["DejaVu Sans"]


def test_the_sheet_of_samples_writes_other_scripts() -> None:
    """Pillow's own font has ASCII only, and shows one box for every other character."""

    def drawn(text: str) -> bytes:
        sheet = overview._Sheet("", 1, 1, 128, lines=1)
        sheet.put(0, 0, None, [text])
        return sheet.picture.tobytes()

    assert len({drawn(text) for text in ("é", "ü", "Ж", "Ω")}) == 4
    plain = ImageDraw.Draw(Image.new("RGB", (8, 8)))
    assert overview._pieces("plain", ["DejaVu Sans"], plain.getfont())[0][1] == "plain"


def test_legends_of_charts_keep_names_that_matplotlib_would_leave_out(recwarn: pytest.WarningsRecorder) -> None:
    names = ["_hidden", "$a$ and $b$", "麻婆豆腐", "y" * 200]
    svg = line_chart([1, 2], {name: [0.5, 0.25] for name in names}, "loss")
    assert not recwarn.list
    for shown in ("_hidden", "$a$ and $b$", "麻婆豆腐", "…"):
        assert shown in svg.split("</title>")[-1]


@pytest.mark.slow
def test_a_run_with_such_names_is_prepared_trained_evaluated_and_reported(
    tmp_path: Path, command: Callable[..., tuple[int, str, str]], recwarn: pytest.WarningsRecorder
) -> None:
    names = [name[:80] for name in NAMES if "/" not in name]
    source = write_folder(tmp_path / "source", dict.fromkeys(names, 10))
    prepare(PrepareSettings(source=f"folder:{source}", out=tmp_path / "shards", size=32, workers=1))
    run = tmp_path / "$run_$"
    recipe = Recipe(model="shufflenet_v2_x0_5", weights="none", image_size=32, epochs=1, batch_size=16)
    train(ShardSet.open(tmp_path / "shards"), run, recipe, device="cpu")
    evaluate(run, device="cpu")
    page = write_report(run).read_text()
    assert "麻婆豆腐" in page
    assert "cheap $5 or $10" in page
    other = Path(shutil.copytree(run, tmp_path / "_other"))
    assert "_other" in write_comparison([run, other], tmp_path / "c.html").read_text()
    code, out, _ = command("evaluate", "--run", str(run), "--device", "cpu")
    assert code == 0
    assert "Crème brûlée" in out
    image = next((source / "麻婆豆腐").iterdir())
    assert command("predict", "--run", str(run), "--device", "cpu", str(image))[0] == 0
    assert not [warning for warning in recwarn.list if "lyph" in str(warning.message)]
