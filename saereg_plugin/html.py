"""HTML of results for notebooks; all text is escaped."""

from __future__ import annotations

from html import escape
from typing import Any

import pandas as pd

from saereg_plugin.errors import printable

MOST_ROWS = 60
"""Rows of a table that are shown; the middle of a longer table is left out."""


def html_block(title: str, *parts: str | pd.DataFrame) -> str:
    """
    Return a bold title, then each part: text as a paragraph, a frame as a table.

    Empty parts are left out.

    >>> html_block("a<b", "1 & 2")
    '<p><strong>a&lt;b</strong></p><p>1 &amp; 2</p>'
    """
    head = f"<p><strong>{_text(title)}</strong></p>"
    return head + "".join(_html(part) for part in parts if len(part))


def _html(part: str | pd.DataFrame) -> str:
    if isinstance(part, str):
        return f"<p>{_text(part)}</p>"
    options: dict[str, Any] = {
        "escape": True,
        "index": False,
        "na_rep": "",
        "float_format": "{:.4g}".format,
        "max_rows": MOST_ROWS,
    }
    return part.to_html(**options)


def _text(value: str) -> str:
    return escape(printable(value))
