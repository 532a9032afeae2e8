"""The built site in a browser, at the width of a desk and of a phone, light and dark.

Pictures of what was seen are in docs/_build/screenshots.
"""

from __future__ import annotations

from pathlib import Path

import pytest

SCREENSHOTS = Path(__file__).resolve().parent.parent.parent / "docs" / "_build" / "screenshots"
WIDTHS = {"desktop": 1280, "phone": 390}
MODES = ("light", "dark")
# Pages of each kind, whose pictures are kept.
SHOWN = (
    "index",
    "get_started",
    "get_started/gaussian_processes",
    "howto/index",
    "howto/explain",
    "concepts/series",
    "concepts/cost",
    "coming_from/index",
    "coming_from/scipy",
    "coming_from/kfac_jax",
    "generated/examples/index",
    "generated/examples/gaussian_process",
    "generated/examples/image_deblurring",
    "api",
    "generated/kronops.KroneckerOperator",
    "benchmarks",
    "libraries",
    "promises",
)
# Elements that end beyond the page's right edge, and are in no frame that scrolls.
OVERFLOWING = """
    (() => {
        const frames = 'pre, .pst-scrollable-table-container, mjx-container, .math';
        const scrolls = node => node.parentElement.closest(frames);
        const wide = [...document.querySelectorAll('.bd-article-container *')].filter(node => {
            const box = node.getBoundingClientRect();
            return box.width > 0 && box.right > window.innerWidth + 1 && !scrolls(node);
        });
        return wide.slice(0, 3).map(node => node.outerHTML.slice(0, 120));
    })()
"""
WIDER = "document.documentElement.scrollWidth - window.innerWidth"
BROKEN_IMAGES = """
    [...document.images].filter(i => i.complete && i.naturalWidth === 0).map(i => i.src)
"""
FORMULAS = """
    [document.querySelectorAll('.math').length, document.querySelectorAll('mjx-container').length,
     document.querySelectorAll('mjx-merror, .MathJax_Error').length]
"""


def problems(browser) -> dict:
    """What is wrong with the page that the browser shows."""
    asked, made, wrong = browser.run(FORMULAS)
    found = {
        "overflowing": browser.run(OVERFLOWING),
        "wider than the window by": max(0, browser.run(WIDER)),
        "images that do not load": browser.run(BROKEN_IMAGES),
        "formulas that are not made": max(0, asked - made) + wrong,
    }
    return {name: value for name, value in found.items() if value}


def test_what_is_wrong_is_seen(browser, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(
        "<main class='bd-article-container'><p style='width: 900px'>wide</p><img src='none.png'>"
        "<span class='math'></span><span class='math'></span><mjx-container><mjx-merror/></main>"
    )
    browser.open(page.as_uri(), width=WIDTHS["phone"])
    found = problems(browser)
    assert "900px" in found["overflowing"][0]
    assert found["wider than the window by"] > 500
    assert found["images that do not load"] == [(tmp_path / "none.png").as_uri()]
    assert found["formulas that are not made"] == 2


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", SHOWN)
def test_a_page_looks_right(browser, address, name, width, mode):
    browser.open(f"{address}/{name}.html", width=WIDTHS[width], mode=mode)
    assert browser.run("document.documentElement.dataset.theme") == mode
    assert problems(browser) == {}
    browser.picture(SCREENSHOTS / f"{name.replace('/', '-')}-{width}-{mode}.png")


def test_every_page_fits_a_phone(browser, address, site):
    names = [path.relative_to(site).as_posix() for path in sorted(site.rglob("*.html"))]
    wrong = {}
    for name in names:
        if "_static" not in name and "_modules" not in name:
            browser.open(f"{address}/{name}", width=WIDTHS["phone"])
            wrong |= {name: found} if (found := problems(browser)) else {}
    assert wrong == {}


@pytest.mark.parametrize(
    "word,page", (("damping", "Damping"), ("KroneckerSumOperator", "Kronecker"))
)
def test_search_finds(browser, address, word, page):
    browser.open(f"{address}/search.html?q={word}")
    browser.wait_for("document.querySelectorAll('#search-results li').length > 0", "results")
    titles = browser.run(
        "[...document.querySelectorAll('#search-results li a')].map(a => a.innerText)"
    )
    assert any(page in title for title in titles)


def test_nothing_was_asked_of_another_machine(browser, address):
    """Of all that was shown before, and of a page with mathematics."""
    browser.open(f"{address}/concepts/series.html")
    assert browser.run("document.querySelectorAll('mjx-container').length") > 50
    assert browser.requests.refused == []
