"""Every link inside the built site leads somewhere, and no page needs another machine."""

from __future__ import annotations

import functools
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

# What a browser fetches by itself when it shows a page.
FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src"}


class Page(HTMLParser):
    """The anchors of a page, where it links to, and what it fetches."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.anchors |= {value for key in ("id", "name") if (value := given.get(key))}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if tag in FETCHED and given.get(FETCHED[tag]):
            self.fetched.append(given[FETCHED[tag]])
        if tag == "link" and given.get("rel") not in ("canonical", "prev", "next", "index"):
            self.fetched.append(given["href"])


@functools.cache
def page(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def pages(site) -> list[Path]:
    found = sorted(site.rglob("*.html"))
    assert len(found) > 100
    return [path for path in found if "_static" not in path.parts]


def target(origin: Path, link: str) -> tuple[Path, str]:
    place, fragment = urldefrag(link)
    path = (origin.parent / unquote(urlsplit(place).path)).resolve() if place else origin
    return (path / "index.html" if path.is_dir() else path), unquote(fragment)


def is_inside(link: str) -> bool:
    return not urlsplit(link).scheme and not link.startswith("//")


def test_links_and_anchors_lead_somewhere(pages):
    broken = []
    for origin in pages:
        for link in filter(is_inside, page(origin).links):
            path, fragment = target(origin, link)
            there = path.exists() and (
                not fragment or path.suffix != ".html" or fragment in page(path).anchors
            )
            if not there:
                broken.append(f"{origin.name}: {link}")
    assert broken == []


def test_what_is_fetched_is_here(pages):
    fetched = [(origin, link) for origin in pages for link in page(origin).fetched]
    assert len(fetched) > 1000
    assert [f"{origin.name}: {link}" for origin, link in fetched if not is_inside(link)] == []
    assert [
        f"{origin.name}: {link}" for origin, link in fetched if not target(origin, link)[0].exists()
    ] == []


def test_what_is_broken_is_seen(tmp_path):
    here, there = tmp_path / "here.html", tmp_path / "there.html"
    here.write_text(
        "<p id='top'><a href='there.html#no'></a><a href='#top'></a><a href='gone.html'>"
    )
    there.write_text("<script src='https://cdn.example/m.js'></script><p id='yes'>")
    found = [target(here, link) for link in page(here).links]
    assert [path.exists() for path, _ in found] == [True, True, False]
    assert [fragment in page(path).anchors for path, fragment in found[:2]] == [False, True]
    assert not is_inside(*page(there).fetched)


def test_styles_and_mathematics_are_here(site):
    """Styles name further files; MathJax finds its fonts beside itself."""
    named = re.compile(r"url\(['\"]?(?!data:)([^)'\"]+)")
    styles = [
        (path, url) for path in site.rglob("*.css") for url in named.findall(path.read_text())
    ]
    assert styles
    assert [f"{path.name}: {url}" for path, url in styles if not is_inside(url)] == []
    assert len(list(site.rglob("MathJax_*.woff*"))) > 10


def test_every_page_can_be_reached(site, pages):
    """By links from the first page."""
    reached, waiting = set(), [site / "index.html"]
    while waiting:
        path = waiting.pop()
        if path not in reached and path.exists() and path.suffix == ".html":
            reached.add(path)
            waiting += [target(path, link)[0] for link in filter(is_inside, page(path).links)]
    lonely = {path.name for path in pages if path not in reached}
    assert lonely <= {"search.html", "genindex.html", "py-modindex.html"}
