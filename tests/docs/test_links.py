"""Every link between the files of the project leads to a file, and to a heading in it, that exists.

Pages of docs/ are read on the site, where Python-Markdown makes the names of headings. The others are read in the
repository, where GitHub does.
"""

from __future__ import annotations

import json
import re
import subprocess
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import markdown  # type: ignore[import-untyped]
import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SNIPPET = re.compile(r'^--8<-- "(.+)"$', re.MULTILINE)
# A file that a page names without a link to it.
NAMED = re.compile(r"`((?:docs|examples|benchmarks|tests|food101_fast|shards)/[\w./-]+\.(?:py|md|sh|ipynb|json|png))`")


class Page(HTMLParser):
    """What a page links to, and the names of its headings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.names: set[str] = set()
        self._heading: str | None = None
        self.feed(markdown.markdown(text, extensions=["fenced_code", "tables", "attr_list", "toc"]))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.links += [value for name in ("href", "src") if (value := given.get(name))]
        if name := given.get("id"):
            self.names.add(name)
        if re.fullmatch("h[1-6]", tag):
            self._heading = ""

    def handle_data(self, data: str) -> None:
        if self._heading is not None:
            self._heading += data

    def handle_endtag(self, tag: str) -> None:
        if self._heading is not None and re.fullmatch("h[1-6]", tag):
            self.names.add("github:" + re.sub(r"[^\w\- ]", "", self._heading.lower()).replace(" ", "-"))
            self._heading = None


@cache
def read(path: Path) -> Page:
    """A page, with the files that it includes; of a notebook the text between the cells."""
    text = path.read_text()
    if path.suffix == ".ipynb":
        text = "\n\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] != "code")
    return Page(SNIPPET.sub(lambda found: (ROOT / found[1]).read_text(), text))


def problems(page: Path, links: list[str]) -> list[str]:
    """Links of a page that lead nowhere; those that need a network are not looked at."""
    found = []
    for link in links:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        if not target.exists() or not target.is_relative_to(ROOT):
            found.append(f"{link}: no such file")
        elif parts.fragment and target.suffix in (".md", ".ipynb"):
            name = parts.fragment if target.is_relative_to(DOCS) else f"github:{parts.fragment}"
            if name not in read(target).names:
                found.append(f"{link}: no such heading")
    return found


def pages() -> list[Path]:
    """All pages that are in git."""
    command = ["git", "ls-files", "*.md", "*.ipynb", "llms.txt"]
    tracked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = [ROOT / name for name in tracked.stdout.split()]
    return found or [*ROOT.glob("*.md"), *DOCS.glob("*.md"), *(ROOT / "shards").glob("*.md")]


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert problems(page, read(page).links) == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page: Path) -> None:
    if page.name == "CHANGELOG.md" or page == DOCS / "changelog.md":
        return  # tells of files as they were
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    bases = (ROOT, page.parent)
    assert [name for name in NAMED.findall(text) if not any((base / name).exists() for base in bases)] == []


def test_most_pages_are_looked_at() -> None:
    links = [link for page in pages() for link in read(page).links if not urlsplit(link).scheme]
    assert len(pages()) > 20
    assert len(links) > 50
    assert any("#" in link for link in links)


def test_wrong_links_are_found() -> None:
    page = DOCS / "training.md"
    wrong = ["gone.md", "evaluation.md#gone", "../README.md#gone", "#gone", "../../elsewhere.md", "img/gone.png"]
    right = ["evaluation.md#report", "../README.md", "#memory", "https://example.org/gone", "img/report.png"]
    assert [problem.split(": ")[0] for problem in problems(page, wrong + right)] == wrong
