"""Labelled texts of the sae-probes package, cleaned before any split."""

from __future__ import annotations

import functools
import html
import re
from typing import cast

import pandas as pd

from saereg_plugin.errors import InputError, suggest
from saereg_plugin.sources import probe_texts

PREFIX = "embedded/"
"""Prefix of every embedded set, which tells its scores from published ones."""

LAYOUT = 1
"""Version of texts and draws; part of the keys of artefacts."""

HEAD = 300
"""
Characters that must differ between two texts of a set. A context of 128 tokens holds little
more, so source files with the same licence header look the same to the model.
"""

_AMAZON_TEMPLATE = re.compile(r"\ATitle: .*?\nReview: ", re.DOTALL)
_LINE_BREAK = re.compile(r"<br\s*/?>|\\r|\\n")
_ESCAPED_CHARACTER = re.compile(r"\\u([0-9a-fA-F]{4})")
# texts are cut off, so a tag may lack its end
_TAG = re.compile(r"</?[a-zA-Z][^<>]*(?:>|\Z)|\[\[(?:VIDEOID|ASIN)[^\]]*(?:\]\]|\Z)")


def read_set(name: str) -> pd.DataFrame:
    """
    Return one of sae-probes' data sets without duplicates.

    The data of arXiv 2502.16681 were drawn with replacement. Each text is kept once, at its
    first row; texts with different targets are dropped. The order is the file's.

    ``name`` is the file name without ``.csv.zst``, such as ``92_glue_sst2``.

    Returns:
        Columns ``prompt`` (without white space at its ends, never empty) and ``target``,
        both text, and a fresh index.

    Raises:
        InputError: if the package or the set does not exist.
    """
    return _read(name).copy()


@functools.lru_cache(maxsize=32)
def _read(name: str) -> pd.DataFrame:
    files = probe_texts.files()
    if name not in files:
        raise InputError(f"sae-probes has no data set {name!r}. {suggest(name, files)}")
    rows = probe_texts.read(files[name])
    return deduplicated(cast("pd.DataFrame", rows[["prompt", "target"]]))


def deduplicated(rows: pd.DataFrame, head: int | None = None) -> pd.DataFrame:
    """
    Return rows (``prompt``, ``target``) with every text once; see :func:`read_set`.

    Texts with the same first ``head`` characters count as one text.

    >>> rows = pd.DataFrame({"prompt": ["a", "a ", "b", "b"], "target": list("0001")})
    >>> deduplicated(rows).to_dict("list")
    {'prompt': ['a'], 'target': ['0']}
    """
    rows = rows.assign(prompt=rows["prompt"].str.strip())
    rows = rows.loc[rows["prompt"] != ""]
    key = rows["prompt"].str.slice(0, head)
    targets = rows["target"].groupby(key).transform("nunique")
    return rows.loc[(targets == 1) & ~key.duplicated()].reset_index(drop=True)


def strip_template(text: str) -> str:
    """
    Return a review as running text, without traces of its file.

    Amazon's begin ``Title: ...\\nReview:`` (the title goes too: Yelp has none) and hold
    HTML; in Yelp's, line breaks, quotes and accents are escape sequences.

    >>> strip_template("Title: Nice\\nReview: Good bag.<br /><br />I&#34;d buy it")
    'Good bag. I"d buy it'
    >>> strip_template('A \\\\"caf\\\\u00e9\\\\".\\\\n\\\\nBye')
    'A "café". Bye'
    """
    text = _AMAZON_TEMPLATE.sub("", text)
    text = _LINE_BREAK.sub(" ", html.unescape(text))
    text = _ESCAPED_CHARACTER.sub(lambda found: chr(int(found[1], 16)), text)
    text = _TAG.sub(" ", text).replace('\\"', '"').replace("\\", " ")
    return " ".join(text.split())
