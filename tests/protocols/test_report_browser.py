"""The report page in a real browser: it opens, sorts, slides, prints, and works with a keyboard."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_support import register_toys, toy_run

from protocols.report import write_report

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed (pip install playwright)"
)

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def _chromium() -> str | None:
    named = os.environ.get("BLURFACE_CHROMIUM")
    return named or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = _chromium()
    if path is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium, or set BLURFACE_CHROMIUM)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("browser")
        patch.setenv("BLURFACE_CACHE", str(root / "cache"))
        register_toys(patch)
        from protocols.runner import Choice

        run = toy_run(root, restorers=(Choice("none"), Choice("wiener"), Choice("richardson-lucy")))
        return write_report(run, shown=2, cache=root / "cache")


@pytest.fixture
def page(browser: Any, report: Path) -> Iterator[Any]:
    """The page, opened; at the end there must have been no message, error or request."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    page.on("dialog", lambda dialog: said.append(f"dialog: {dialog.message}"))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report.as_uri())
    yield page
    context.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("data:", report.as_uri()))] == []


def _column(page: Any, table: str, index: int) -> list[str]:
    texts: list[str] = page.eval_on_selector_all(
        f"{table} tbody tr", f"rows => rows.map(row => row.cells[{index}].textContent)"
    )
    return texts


TABLE = "#table-accuracy-thumbnails"


def test_sorts_by_click_and_key(page: Any) -> None:
    heads = page.locator(f"{TABLE} thead th")
    mean = next(i for i in range(heads.count()) if heads.nth(i).inner_text().startswith("mean"))
    button = heads.nth(mean).get_by_role("button")
    button.click()
    values = [float(text) for text in _column(page, TABLE, mean)]
    assert values == sorted(values)
    assert heads.nth(mean).get_attribute("aria-sort") == "ascending"
    button.focus()
    page.keyboard.press("Enter")
    assert heads.nth(mean).get_attribute("aria-sort") == "descending"
    assert [float(text) for text in _column(page, TABLE, mean)] == sorted(values, reverse=True)
    heads.nth(0).get_by_role("button").press("Space")
    assert heads.nth(mean).get_attribute("aria-sort") == "none"
    names = _column(page, TABLE, 0)
    assert names == sorted(names)
    # Values that are missing come last whichever way.
    won = next(i for i in range(heads.count()) if heads.nth(i).inner_text().startswith("won back"))
    for _ in range(2):
        heads.nth(won).get_by_role("button").click()
        assert _column(page, TABLE, won)[-1] == "–"


def test_slides(page: Any) -> None:
    slider = page.locator(".pair:not([hidden]) input[type=range]").first
    after = page.locator(".pair:not([hidden]) .after").first

    def shown() -> str:
        text: str = after.evaluate("element => getComputedStyle(element).clipPath")
        return text

    assert shown() == "inset(0px 0px 0px 50%)"
    slider.focus()
    page.keyboard.press("ArrowLeft")
    assert shown() == "inset(0px 0px 0px 49%)"
    assert slider.get_attribute("aria-valuetext") == "blurry 49%, restored 51%"
    page.keyboard.press("Home")
    assert shown() == "inset(0px)" or shown() == "inset(0px 0px 0px 0%)"
    box = slider.bounding_box()
    slider.click(position={"x": box["width"] * 0.8, "y": box["height"] / 2})  # waits for the scroll
    assert 75 <= float(slider.input_value()) <= 85
    # The two pictures lie exactly on each other.
    images = page.locator(".pair:not([hidden]) .before-after").first.locator("img")
    assert images.nth(0).bounding_box() == images.nth(1).bounding_box()
    assert images.nth(0).evaluate("image => image.naturalWidth") == 96


def test_chooses_restorer_and_kind(page: Any) -> None:
    visible = page.locator(".pair:not([hidden])")
    assert {visible.nth(i).get_attribute("data-restorer") for i in range(visible.count())} == {"wiener"}
    page.get_by_text("helped most").click()
    assert {visible.nth(i).get_attribute("data-kind") for i in range(visible.count())} <= {"best"}
    page.get_by_role("radio", name="wiener").focus()
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("radio", name="richardson-lucy").is_checked()
    assert {visible.nth(i).get_attribute("data-restorer") for i in range(visible.count())} <= {
        "richardson-lucy"
    }


def test_everything_is_reached_by_keyboard(page: Any) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    kinds = set()
    for _ in range(400):
        page.keyboard.press("Tab")
        kinds.add(
            page.evaluate(
                "(e => e.tagName + (e.type ? ':' + e.type : '') + (e.getAttribute('role') || ''))"
                "(document.activeElement)"
            )
        )
        if page.evaluate("document.activeElement === document.body"):
            break
    assert {"A", "BUTTON:button", "DIVregion", "INPUT:range", "INPUT:radio", "SUMMARY"} <= kinds


def test_a_screen_reader_finds_its_way(page: Any) -> None:
    for name in ("Tables", "Figures", "Worst and best pairs", "Harm", "How it was made"):
        assert page.get_by_role("heading", name=name, exact=True).count() >= 1
    assert page.get_by_role("navigation", name="Sections").count() == 1
    assert page.get_by_role("table").count() >= 6
    assert page.get_by_role("columnheader", name="Restorer").count() >= 1
    assert page.get_by_role("rowheader", name="wiener").count() >= 1
    assert page.get_by_role("slider").count() >= 1
    assert page.get_by_role("img", name="ROC").count() == 1


@pytest.mark.parametrize("width", [360, 800, 1600])
def test_nothing_sticks_out(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_prints_whole(page: Any) -> None:
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.locator("details:not([open])").count() == 0
    assert not page.locator("nav").is_visible()
    # Both halves of every comparison, and every pair, are on paper.
    pair = page.locator(".pair").last
    before, after = pair.locator(".before").bounding_box(), pair.locator(".after").bounding_box()
    assert before["x"] + before["width"] <= after["x"] + 1
    assert page.locator(".pair").evaluate_all("all => all.every(pair => pair.offsetHeight > 0)")
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.locator("details:not([open])").count() == 1


def test_dark_and_light_can_be_read(page: Any) -> None:
    """Text and its ground differ by WCAG's 4.5 to 1 in both schemes."""
    contrast = """
        element => {
          const parse = (text) => text.match(/[\\d.]+/g).map(Number);
          const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
            .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
            .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
          let ground = element;
          while (parse(getComputedStyle(ground).backgroundColor)[3] === 0) ground = ground.parentElement;
          const a = light(parse(getComputedStyle(element).color));
          const b = light(parse(getComputedStyle(ground).backgroundColor));
          return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        }"""
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for place in (
            "h1",
            ".lede",
            ".note",
            "nav a",
            f"{TABLE} td",
            ".scores",
            ".verdict strong",
            "dt",
            "code",
        ):
            assert page.locator(f"{place} >> visible=true").first.evaluate(contrast) >= 4.5, (scheme, place)
