"""Figures of the commands that train SAEs and compare them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from eval_recipes.report.cells import Cell, PageTable, table, text
from eval_recipes.report.figures.definitions import title_and_sentence
from eval_recipes.report.figures.part import (
    Content,
    Number,
    Part,
    Value,
    count_cell,
    facts_of,
    group_cell,
    named_table,
    seed_cell,
    value_cell,
)

ARMS = ("seeds", "pooled", "fresh", "control")
"""Arms of ``saereg-bench pool``: the mean over their SAEs."""


class _Row(Value):
    group: str
    figure: str
    seed: Number | None = None
    other: Number | None = None
    of: str | None = None
    against: str | None = None
    null: Number | None = None


class _Pool(Content):
    seeds: list[int]
    d_sae: int
    candidates: list[int]
    unique: int
    shared_by: list[int]


class _Compared(Content):
    rows: list[_Row]
    verdicts: dict[str, str] = {}
    sentences: list[str] = []
    pools: dict[str, _Pool] = {}


Heads = Mapping[str, Callable[[_Row], Cell]]

_VALUE = "[95 %]"
_GROUP: Heads = {"group": lambda row: group_cell(row.group)}
_SEED: Heads = {"seed": lambda row: seed_cell(row.seed, row.other)}
_N: Heads = {"n": lambda row: count_cell(row.n)}
_CHANCE: Heads = {"chance": lambda row: value_cell(row.null)}
_SIDES: Heads = {
    "of": lambda row: text(row.of),
    "against": lambda row: text(row.against),
}


def _values(head: str) -> Heads:
    return {f"{head} {_VALUE}": Value.cell}


def revival_part(name: str, content: Any) -> Part:
    """Return the gains of dead latents that were given back, next to a control's."""
    found = _Compared.model_validate(content)
    mean, single = _split(found.rows, lambda row: row.seed is None)
    return Part(
        title="revive",
        summary="Dead latents are given back to SAEs, and as many new ones to their width-matched controls; "
        "latents whose return helps are pathologically dead. The question is that of arXiv 2603.04198, the "
        "test is ours.",
        docs="docs/howto/revive.md",
        facts=facts_of(content, ()),
        sentences=list(found.verdicts.values()),
        tables=[
            _table(
                f"{name}-mean",
                "revive: mean over seeds",
                "revival",
                mean,
                {**_GROUP, **_values("gain"), **_N},
            )
        ],
        details=_details(
            _table(
                f"{name}-seeds",
                "revive: each seed",
                "revival",
                single,
                {**_GROUP, **_SEED, **_values("gain"), **_N},
            )
        ),
        notes=[
            "Intervals say nothing about other seeds: look at each. n counts contexts, or latents."
        ],
    )


def pool_part(name: str, content: Any) -> Part:
    """Return figures of pooled SAEs next to their seeds, fresh SAEs and a control."""
    found = _Compared.model_validate(content)
    mean, single = _split(found.rows, lambda row: row.of in ARMS)
    heads = {**_GROUP, **_SIDES, **_values("value"), **_N}
    pools = [(group, pool) for group, pool in found.pools.items()]
    shared = named_table(
        f"{name}-pools",
        "pool: what was pooled",
        {
            "group": [group_cell(group) for group, _ in pools],
            "seeds": [text(", ".join(map(str, pool.seeds))) for _, pool in pools],
            "latents of each": [count_cell(pool.d_sae) for _, pool in pools],
            "alive and fired": [count_cell(sum(pool.candidates)) for _, pool in pools],
            "unique": [count_cell(pool.unique) for _, pool in pools],
            "of 1, 2, ... seeds": [
                text(", ".join(f"{n:,}" for n in pool.shared_by)) for _, pool in pools
            ],
        },
    )
    return Part(
        title="pool",
        summary="The unique latents of a group's seeds are the start of one SAE, compared with its seeds, with "
        "fresh SAEs of its width trained for as many steps, and with a control that cost as much as seeds and "
        "pool. After arXiv 2606.12138; the definitions are ours.",
        docs="docs/howto/pool.md",
        facts=facts_of(content, ()),
        sentences=list(found.verdicts.values()),
        tables=[
            *([shared] if pools else []),
            _table(
                f"{name}-arms",
                "pool: mean over the SAEs of each arm",
                "pool",
                mean,
                heads,
            ),
        ],
        details=_details(
            _table(f"{name}-saes", "pool: each SAE", "pool", single, heads)
        ),
        notes=[
            "Intervals say nothing about other seeds. n counts contexts, or latents."
        ],
    )


def distillation_part(name: str, content: Any) -> Part:
    """Return figures of distilled SAEs next to their controls'."""
    found = _Compared.model_validate(content)
    mean, single = _split(found.rows, lambda row: row.seed is None)
    heads = {**_values("value"), **_CHANCE, **_N}
    own = "distillation"
    return Part(
        title="distill",
        summary="A core of latents is ranked by attribution, frozen and trained with again, next to one training "
        "on as many tokens, a random core, and a core by firing rate. After arXiv 2512.24975, which has none of "
        "these controls.",
        docs="docs/howto/distill.md",
        facts=facts_of(content, ("sentences",)),
        sentences=found.sentences,
        tables=[
            _table(
                f"{name}-mean",
                "distill: mean over seeds",
                own,
                mean,
                {**_GROUP, **heads},
            )
        ],
        details=_details(
            _table(
                f"{name}-seeds",
                "distill: each seed, or pair of seeds",
                own,
                single,
                {**_GROUP, **_SEED, **heads},
            )
        ),
        notes=[
            "Intervals say nothing about other seeds: look at each. n counts contexts, latents or pairs."
        ],
    )


def _split(
    rows: Sequence[_Row], is_mean: Callable[[_Row], bool]
) -> tuple[list[_Row], list[_Row]]:
    return [r for r in rows if is_mean(r)], [r for r in rows if not is_mean(r)]


def _details(found: PageTable) -> list[PageTable]:
    return [found] if found.rows else []


def _table(
    name: str, caption: str, command: str, rows: Sequence[_Row], heads: Heads
) -> PageTable:
    """Return a table with the rows of each figure below one another, and its definition."""
    by_figure: dict[str, list[_Row]] = {}
    for row in rows:
        by_figure.setdefault(row.figure, []).append(row)
    shown: list[list[Cell]] = []
    for figure, mine in by_figure.items():
        title, sentence = title_and_sentence(command, figure)
        for number, row in enumerate(mine):
            span = 0 if number else len(mine)
            first = text(title, note=sentence, title=figure, span=span)
            shown.append([first, *(cell(row) for cell in heads.values())])
    return table(name, caption, ["figure", *heads], shown, sortable=False)
