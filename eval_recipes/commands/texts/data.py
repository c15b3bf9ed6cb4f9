"""``saereg-bench data``."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from eval_recipes.commands.console import open_console, require_bench, shown, working

_LABELS, _ORDER, _SCORES = "Labels", "Order", "Scores"


class Pool(str, Enum):
    """Choices of ``--pool``."""

    mean = "mean"
    max = "max"
    share = "share"


class ScoreBy(str, Enum):
    """Choices of ``--score-by``."""

    sae = "sae"
    raw = "raw"
    tfidf = "tfidf"
    length = "length"


def data(
    texts: Annotated[
        Path,
        Argument(help='Texts: JSON lines with "id", "text", and optionally "group".'),
    ],
    release: Annotated[str, Option(help="Release: a folder, or a public name.")],
    out: Annotated[Path, Option(help="Folder for order.parquet and scores.json.")],
    sae_id: Annotated[
        str | None,
        Option(help="The SAE; needed if the release has several."),
    ] = None,
    labels: Annotated[
        Path | None,
        Option(
            help='JSON lines with "id" and labels of some texts; may be the file of the texts.',
            rich_help_panel=_LABELS,
        ),
    ] = None,
    difficulty: Annotated[
        str,
        Option(
            help="Field with the difficulty, a number; larger is harder.",
            rich_help_panel=_LABELS,
        ),
    ] = "difficulty",
    quality: Annotated[
        str,
        Option(help="Field with the quality: 1 good, 0 bad.", rich_help_panel=_LABELS),
    ] = "quality",
    pool: Annotated[
        Pool,
        Option(
            help="How a text's latents become one vector: mean, max, or share of tokens that fire."
        ),
    ] = Pool.mean,
    max_tokens: Annotated[int, Option(help="Texts are cut at as many tokens.")] = 512,
    score_by: Annotated[
        ScoreBy,
        Option(help="Features that the order is scored by.", rich_help_panel=_ORDER),
    ] = ScoreBy.sae,
    clusters: Annotated[
        int | None,
        Option(
            help="Number of clusters.",
            show_default="by silhouette",
            rich_help_panel=_ORDER,
        ),
    ] = None,
    batch_size: Annotated[
        int, Option(help="Texts of a batch.", rich_help_panel=_ORDER)
    ] = 32,
    mixing: Annotated[
        float,
        Option(
            help="Share of a batch from all clusters; 0: a cluster each, 1: random.",
            rich_help_panel=_ORDER,
        ),
    ] = 0.5,
    stages: Annotated[
        int, Option(help="Stages from easy to hard.", rich_help_panel=_ORDER)
    ] = 4,
    least_quality: Annotated[
        float,
        Option(
            help="Predicted quality (bad texts: 0, good: 1 on average) below which a text is left out.",
            rich_help_panel=_ORDER,
        ),
    ] = 0.5,
    permutations: Annotated[
        int,
        Option(
            help="Shuffles of the labels, each with all fits; 0 for none.",
            rich_help_panel=_SCORES,
        ),
    ] = 20,
    seed: Annotated[int, Option(help="Of every draw.")] = 0,
    device: Annotated[
        str, Option(help="Torch device; auto: cuda, else mps, else cpu.")
    ] = "auto",
    allow_pickle: Annotated[
        bool,
        Option("--allow-pickle", help="Read SAEs that are pickle files, tensors only."),
    ] = False,
) -> None:
    """
    Cluster texts, predict their difficulty and quality, and order them for training.

    Scores are held out, next to those of tf-idf, raw activations and length on the same splits.
    """
    require_bench("data")
    from eval_recipes.data_order.options import OrderOptions
    from eval_recipes.data_order.ordering import order_texts
    from eval_recipes.data_order.reading import load_subject, read_all, read_inputs
    from saereg_plugin.files import require_writable
    from saereg_plugin.machine import resolve_device

    options = OrderOptions(
        pool=pool.value,
        most_tokens=max_tokens,
        score_by=score_by.value,
        clusters=clusters,
        batch_size=batch_size,
        mixing=mixing,
        stages=stages,
        least_quality=least_quality,
        permutations=permutations,
        seed=seed,
    )
    inputs = read_inputs(
        texts, labels, difficulty=difficulty, quality=quality, options=options
    )
    require_writable(out)
    place = resolve_device(device)
    subject = load_subject(release, sae_id, device=place, allow_pickle=allow_pickle)
    console = open_console()
    with working():
        features = read_all(subject, inputs.texts, options, device=place)
        found = order_texts(
            inputs.texts,
            inputs.labels,
            features,
            options,
            progress=lambda line: console.print(shown(line)),
        )
    path = found.write(out, **inputs.about, release=release, sae_id=subject.sae_id)
    _print_scores(found)
    n_cut = int((features.tokens >= max_tokens - 1).sum())
    if n_cut:
        console.print(f"{n_cut} texts fill --max-tokens {max_tokens}, and may be cut.")
    n_kept = int(found.frame["kept"].sum())
    console.print(
        f"{n_kept} of {len(found.frame)} texts in order, from {found.clusters.n} clusters."
    )
    for sentence in found.verdicts:
        console.print(shown(sentence), soft_wrap=True)
    console.print(f"Wrote {shown(path)}.")


def _print_scores(found: Any) -> None:
    """Print the held-out scores of a ``DataOrder``, and the differences."""
    from eval_recipes.tables.table import cell, digits, plain_table

    minus = {
        (one.target, one.metric, one.features): one.value for one in found.differences
    }
    table = plain_table("Held-out scores [95 % interval]")
    heads = ("target", "metric", "features", "score", "SAE minus this")
    for head in (*heads, "shuffled labels", "95 % below", "p", "one answer for all"):
        table.add_column(head)
    for one in found.scores:
        null = (one.null_mean, one.null_high, one.p_value)
        table.add_row(
            *(one.target, one.metric, one.features, shown(cell(one.held_out))),
            shown(cell(minus.get((one.target, one.metric, one.features)))),
            *("-" if value is None else shown(digits(value)) for value in null),
            digits(one.majority),
        )
    open_console(soft_wrap=False).print(table)
