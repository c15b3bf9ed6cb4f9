"""Cards of latents on images and clips."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.browser.result_folders import SAE
from tests.browser.visits import Visit, fragment, said

BANDS = """() => [...document.querySelectorAll(".lat-part[aria-label='Fires on'] .lat-band")].map(
    band => [band.querySelector("h5").textContent, band.querySelectorAll("img").length])"""
LOADED = """() => [...document.querySelectorAll(".lat-images img")].map(
    image => image.complete ? image.naturalWidth : 0)"""
PLACES = """() => {
    const image = document.querySelector(".lat-frame img").getBoundingClientRect();
    return [...document.querySelectorAll(".lat-frame")][0].querySelectorAll("rect").values().map(
        rect => rect.getBoundingClientRect()).map(box => [
            Math.round(10 * (box.x - image.x) / image.width),
            Math.round(10 * (box.y - image.y) / image.height)]).toArray();
}"""


def test_a_card_has_top_middle_and_lowest_images_with_patches(
    inputs: Path, visit: Callable[..., Visit]
) -> None:
    opened = visit(inputs, fragment("images-seed0", 8))
    page = opened.page
    assert opened.title == "images-seed0 / 8"
    assert page.evaluate(BANDS) == [
        ["largest", 4],
        ["50-75 %", 1],
        ["25-50 %", 1],
        ["lowest", 1],
    ]
    assert set(page.evaluate(LOADED)) == {40}
    image = page.locator(".lat-image img").first
    # a title is text, whatever it holds
    assert image.get_attribute("alt") == (
        f"{SAE} 0: 9 at row 3, column 2 of 3 by 3 patches"
    )
    assert page.evaluate(PLACES) == [[0, 0], [3, 7]]
    caption = said(page.locator(".lat-image figcaption").nth(1))
    assert caption == f"8 {SAE} 1 red"
    assert "90 rows of held-out images (photos)" in said(page.locator(".lat-card"))
    assert page.evaluate("window.ran") is None


def test_heatmaps_are_taken_off_by_a_button_and_stay_off(
    inputs: Path, visit: Callable[..., Visit]
) -> None:
    opened = visit(inputs, fragment("images-seed0", 8))
    page = opened.page
    heat = page.locator(".lat-heat").first
    assert heat.is_visible()
    opened.tab_to(tag="BUTTON", text="Hide heatmaps")
    page.keyboard.press("Enter")
    assert not heat.is_visible()
    page.locator(".lat-card h3").focus()
    page.keyboard.press("ArrowRight")
    page.locator(".lat-heat-button", has_text="Show heatmaps").wait_for()
    assert opened.title != "images-seed0 / 8"
    assert not page.locator(".lat-heat").first.is_visible()


def test_images_of_a_match_are_next_to_those_of_the_latent(
    inputs: Path, visit: Callable[..., Visit]
) -> None:
    page = visit(inputs, fragment("images-seed0", 8)).page
    sides = page.locator(".lat-match").first.locator(".lat-side")
    assert sides.count() == 2
    for side in sides.all():
        assert side.locator("img").count() == 3


def test_a_clip_is_a_strip_over_its_seconds(
    inputs: Path, visit: Callable[..., Visit]
) -> None:
    page = visit(inputs, fragment("clips-seed0", 8)).page
    strip = page.locator(".lat-strip svg").first
    assert strip.get_attribute("aria-label") == f"Activation along {SAE} 0: 9 at 1.40 s"
    assert said(page.locator(".lat-strip .lat-axis").first) == "0 s1.80 s"
    assert strip.locator("rect").count() == 2
    assert page.locator(".lat-heat-button").count() == 0


def test_a_search_finds_titles_and_classes(
    inputs: Path, visit: Callable[..., Visit]
) -> None:
    page = visit(inputs).page
    page.get_by_label("Search").fill("photo")
    page.locator(".lat-count", has_text="0 ").wait_for()
    page.get_by_label("Search").fill(f"{SAE} 3 red".lower())
    page.locator(".lat-row").first.wait_for()
