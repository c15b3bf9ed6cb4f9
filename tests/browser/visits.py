"""A page of results in a browser without network, and everything that it says or asks for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from playwright.sync_api import Browser, BrowserContext, Page

READY = "#latent-browser[data-ready]"
"""The browser of latents, once it can be used."""

OPEN_ALL = "() => document.querySelectorAll('details').forEach(one => one.open = true)"


@dataclass
class Visit:
    """
    One visit to a page.

    Attributes:
        trouble: errors, messages of the console, dialogs, and requests for anything but the page
            and the files next to it.
        asked: files that were asked for.
    """

    path: Path
    context: BrowserContext
    page: Page
    runs_scripts: bool = True
    trouble: list[str] = field(default_factory=list)
    asked: list[Path] = field(default_factory=list)

    def watch(self) -> None:
        """Note what happens from now on."""
        self.page.on("console", lambda one: self.trouble.append(f"console: {one.text}"))
        self.page.on("pageerror", lambda one: self.trouble.append(f"error: {one}"))
        self.page.on("request", lambda one: self._note_request(one.url))
        self.page.on("dialog", self._dismiss)

    def _note_request(self, url: str) -> None:
        if url.startswith(("blob:", "data:")):
            return
        asked = Path(unquote(url.removeprefix("file://").partition("#")[0]))
        self.asked.append(asked)
        if not url.startswith("file://") or self.path.parent not in asked.parents:
            self.trouble.append(f"request: {url}")

    def _dismiss(self, dialog: Any) -> None:
        self.trouble.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def go(self, fragment: str = "") -> None:
        """Open the page; wait for its latents if there are any."""
        self.page.goto(self.path.as_uri() + fragment)
        if self.runs_scripts and self.page.locator("#latent-browser").count():
            self.page.wait_for_selector(READY, timeout=60_000)

    @property
    def title(self) -> str:
        """SAE and latent of the card that is shown."""
        return said(self.page.locator(".lat-card h3"))

    @property
    def focused(self) -> dict[str, Any]:
        """Tag, id, class, role and text of the element with the focus."""
        return self.page.evaluate(
            """() => {
                const { tagName, id, className, textContent } = document.activeElement;
                const role = document.activeElement.getAttribute("role");
                return { tag: tagName, id, class: className, role, text: textContent };
            }"""
        )

    def tab_to(self, *, most: int = 150, **wanted: Any) -> None:
        """Press Tab until the element with the focus is the wanted one."""
        for _ in range(most):
            self.page.keyboard.press("Tab")
            found = self.focused
            if all(found[name] == value for name, value in wanted.items()):
                return
        raise AssertionError(f"{wanted} is not reached by {most} presses of Tab")


def said(locator: Any) -> str:
    """Text of an element in one line."""
    return " ".join(locator.text_content().split())


def fragment(sae: str, latent: int) -> str:
    """Link to a latent, as somebody writes it into a note."""
    return f"#{quote(sae, safe='')}/{latent}"


def visit_in(browser: Browser, path: Path, **settings: Any) -> Visit:
    """Open an empty tab for a page, without network, and watch it."""
    context = browser.new_context(offline=True, **settings)
    runs_scripts = settings.get("java_script_enabled", True)
    found = Visit(path, context, context.new_page(), runs_scripts)
    found.watch()
    return found
