"""Moving about the page: keyboard, links to latents, back and forward."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.browser.result_folders import STEERED
from tests.browser.visits import OPEN_ALL, Visit, fragment, said

FOCUSABLE = """() => {
    const all = "a[href], button:enabled, select, input, summary, [tabindex='0']";
    const seen = [...document.querySelectorAll(all)].filter(one => one.checkVisibility());
    seen.forEach((one, i) => one.dataset.test = i);
    return seen.length;
}"""


def test_everything_that_can_be_used_is_reached_by_tab(
    plain: Path, visit: Callable[..., Visit]
) -> None:
    page = visit(plain).page
    page.evaluate(OPEN_ALL)
    count = page.evaluate(FOCUSABLE)
    reached: set[str] = set()
    for _ in range(count + 50):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.dataset.test ?? ''"))
    assert {str(number) for number in range(count)} - reached == set()


def test_the_first_tab_skips_to_the_content_and_the_theme_is_a_button(
    plain: Path, visit: Callable[..., Visit]
) -> None:
    opened = visit(plain, color_scheme="light")
    page = opened.page
    page.keyboard.press("Tab")
    assert opened.focused["text"] == "Skip to the content"
    assert page.locator(".skip").bounding_box()["x"] >= 0  # type: ignore[index]
    opened.tab_to(id="theme")
    page.keyboard.press("Enter")
    assert page.locator("html").get_attribute("data-theme") == "dark"
    page.keyboard.press("Space")
    assert page.locator("html").get_attribute("data-theme") == "light"


def test_a_table_is_sorted_by_its_heads(
    plain: Path, visit: Callable[..., Visit]
) -> None:
    opened = visit(plain)
    page = opened.page
    opened.tab_to(tag="BUTTON", text="SAE")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert opened.focused["text"] == "seed"
    head = page.locator("#saes thead th", has_text="seed")

    def seeds() -> list[str]:
        return [said(cell) for cell in page.locator("#saes td:nth-child(3)").all()]

    for order in ("descending", "ascending"):
        page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == order
        assert seeds() == sorted(seeds(), reverse=order == "descending")


def test_the_metric_of_the_plot_is_chosen_by_keys(
    plain: Path, visit: Callable[..., Visit]
) -> None:
    opened = visit(plain)
    page = opened.page
    page.locator("#pareto").scroll_into_view_if_needed()
    title = page.locator("#pareto-plot .ytitle")
    title.wait_for()
    before = said(title)
    opened.tab_to(tag="SELECT")
    page.keyboard.press("ArrowDown")
    metric = page.locator("#pareto-controls select").first
    chosen = said(metric.locator("option:checked"))
    page.locator("#pareto-plot .ytitle", has_text=chosen).wait_for()
    assert said(title) != before


def test_the_list_of_latents_is_used_by_keys(
    plain: Path, visit: Callable[..., Visit]
) -> None:
    opened = visit(plain)
    page, keys = opened.page, opened.page.keyboard
    opened.tab_to(role="listbox")
    first = opened.title
    keys.press("ArrowDown")
    second = opened.title
    assert second != first
    selected = page.locator(".lat-row[aria-selected='true']")
    assert second.split(" / ")[1] == said(selected.locator("b"))
    assert selected.get_attribute("id") == (
        page.locator(".lat-list").get_attribute("aria-activedescendant")
    )
    keys.press("End")
    last = opened.title
    keys.press("ArrowDown")
    assert opened.title == last
    keys.press("Home")
    assert opened.title == first
    keys.press("Enter")
    assert opened.focused["tag"] == "H3"
    keys.press("ArrowRight")
    assert opened.title == second
    keys.press("ArrowLeft")
    assert opened.title == first


def test_activations_are_read_by_keys_and_escape_hides_them(
    plain: Path, visit: Callable[..., Visit]
) -> None:
    opened = visit(plain, fragment("none-seed0", 3))
    keys, tip = opened.page.keyboard, opened.page.locator("#lat-tip")
    opened.tab_to(**{"class": "lat-tok a9 lat-peak"})
    assert tip.inner_text() == "9"
    keys.press("ArrowRight")
    assert tip.inner_text() == "3"
    # the arrow went to the next token, not to the next latent
    assert opened.title == "none-seed0 / 3"
    keys.press("Escape")
    assert not tip.is_visible()


def test_a_link_to_a_latent_opens_its_card_and_back_and_forward_work(
    plain: Path, visit: Callable[..., Visit]
) -> None:
    opened = visit(plain, fragment("none-seed1", STEERED[0]))
    page = opened.page
    assert opened.title == "none-seed1 / 4"
    assert page.locator(".lat-card").bounding_box()["y"] < 720  # type: ignore[index]
    # the match in another seed, and from there the way back by its own link
    page.get_by_role("link", name="none-seed2 / 5").click()
    assert opened.title == "none-seed2 / 5"
    page.get_by_role("link", name="none-seed1 / 4").click()
    assert opened.title == "none-seed1 / 4"
    page.go_back()
    assert opened.title == "none-seed2 / 5"
    page.go_back()
    assert opened.title == "none-seed1 / 4"
    page.go_forward()
    assert opened.title == "none-seed2 / 5"
    assert page.url.endswith("#none-seed2/5")
    page.reload()
    page.wait_for_selector("#latent-browser[data-ready]")
    assert opened.title == "none-seed2 / 5"


def test_the_address_follows_the_arrow_keys(
    plain: Path, visit: Callable[..., Visit]
) -> None:
    opened = visit(plain)
    opened.tab_to(role="listbox")
    for _ in range(3):
        opened.page.keyboard.press("ArrowDown")
    sae, latent = opened.title.split(" / ")
    opened.page.wait_for_url(f"**{fragment(sae, int(latent))}")


LEAVE_AT_ONCE = """hash => new Promise(done => {
    const list = document.querySelector(".lat-list");
    list.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowDown", bubbles: true }));
    location.hash = hash;
    // timers end in their order: any that waited to change the address is over by then
    setTimeout(() => done(location.hash), 1000);
})"""


def test_the_address_stays_that_of_the_last_link(
    plain: Path, visit: Callable[..., Visit]
) -> None:
    opened = visit(plain)
    for link in (fragment("none-seed1", STEERED[0]), "#pareto"):
        assert opened.page.evaluate(LEAVE_AT_ONCE, link) == link
    # the key before the second link went on from the latent of the first
    assert opened.title != "none-seed1 / 4"


def test_a_link_to_no_latent_says_so(plain: Path, visit: Callable[..., Visit]) -> None:
    page = visit(plain, fragment("none-seed9", 4)).page
    assert said(page.locator(".lat-card")) == (
        'This page has no latent 4 of an SAE "none-seed9".'
    )


def test_a_click_in_the_plot_chooses_the_sae_everywhere(
    plain: Path, visit: Callable[..., Visit]
) -> None:
    page = visit(plain).page
    page.locator("#pareto").scroll_into_view_if_needed()
    dot = page.locator("#pareto-plot .scatterlayer .point").first
    dot.wait_for()
    box = dot.bounding_box()
    assert box is not None
    # plotly listens on a plane above the dots
    page.mouse.move(box["x"], box["y"])
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.locator("#pareto-table tr.chosen").wait_for()
    chosen = page.locator("#pareto-controls select").nth(1).input_value()
    assert chosen
    marked = page.locator("#pareto-table tr.chosen th")
    assert marked.all_text_contents() == [chosen]
    listed = page.locator(".lat-rows .lat-sae").all_text_contents()
    assert set(listed) == {chosen}
