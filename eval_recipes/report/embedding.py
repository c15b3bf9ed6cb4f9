"""Data, scripts and shards inside and next to the page."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from typing import Any

from markupsafe import Markup


def packed(value: Any) -> str:
    """Return JSON or text as base64 of gzip; the same bytes for the same value."""
    content = value if isinstance(value, str) else compact(value)
    # without a time stamp
    return base64.b64encode(gzip.compress(content.encode(), 9, mtime=0)).decode()


def compact(value: Any) -> str:
    r"""
    Return strict JSON without spaces; half a surrogate pair, which UTF-8 cannot hold, as escape.

    >>> print(compact("\ud800"))
    "\ud800"
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # within a string of JSON Python's escape is JSON's as well
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def script_json(value: Any) -> Markup:
    r"""
    Return JSON that may stand in a script element: nothing in it can end the element.

    >>> print(script_json("</script>"))
    "\u003c/script>"
    """
    text = compact(value).replace("<", "\\u003c").replace("\u2028", "\\u2028")
    return Markup(text.replace("\u2029", "\\u2029"))


def source_hash(script: str) -> str:
    """Return the source of a content security policy that allows exactly this script."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def policy(script: str, *, shards: bool) -> str:
    """
    Return a content security policy without a network.

    Allowed are the given script, what it makes of embedded data (``blob:``), and, with
    ``shards``, files next to the page.
    """
    allowed = [source_hash(script), "blob:", *(["'self'", "file:"] if shards else [])]
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {' '.join(allowed)}",
            # plotly sets styles, and so do the table's columns
            "style-src 'unsafe-inline'",
            "img-src data: blob:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def shard_name(sae: str) -> str:
    """
    Return the file of an SAE's latents next to the page.

    >>> shard_name("blocks.4/k32")
    'blocks.4_k32-116823c3.js'
    """
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", sae).lstrip(".")[:80]
    # two names may be the same after that
    return f"{safe}-{hashlib.sha256(sae.encode()).hexdigest()[:8]}.js"


def shard_script(sae: str, content: str) -> str:
    """Return the script that hands an SAE's packed latents to the page."""
    return f"saeregLatents({script_json(sae)},{script_json(content)});\n"
