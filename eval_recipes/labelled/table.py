"""Every embedded set with its size, for documentation and results."""

from __future__ import annotations

import pandas as pd

from eval_recipes.labelled.crossed import crossed_sets, texts_by_cell
from eval_recipes.labelled.probing import probing_sets, summary, texts_by_class


def embedded_sets() -> pd.DataFrame:
    """
    Return one row a class (or cell of two crossed attributes), in a fixed order.

    Columns: ``set`` (its name), ``tells`` (what the classes tell apart), ``class`` and
    ``texts`` (distinct texts that may be drawn).
    """
    rows = [
        (name, summary(name), class_name, len(texts))
        for name in probing_sets()
        for class_name, texts in texts_by_class(name).items()
    ]
    rows += [
        (name, crossed.summary, " x ".join(cell), len(texts))
        for name, crossed in crossed_sets().items()
        for cell, texts in texts_by_cell(name).items()
    ]
    return pd.DataFrame(rows, columns=pd.Index(["set", "tells", "class", "texts"]))
