"""``saereg-bench select``."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from eval_recipes.commands.console import open_console, require_bench, shown, working
from eval_recipes.commands.flags import Split

_INPUTS, _CHOICE = "Inputs", "Choice"


class Method(str, Enum):
    """Choices of ``--method``."""

    auroc = "auroc"
    logistic = "logistic"


class Sides(str, Enum):
    """Choices of ``--sides``."""

    both = "both"
    first = "first"


def select(
    sae_release: Annotated[str, Argument(help="Release: a folder, or a public name.")],
    sae_id: Annotated[str, Option(help="The SAE.")],
    first: Annotated[
        str,
        Option(
            help="Inputs with the target property: a file of texts, one a line; for an SAE of a "
            "vision or audio model embedded data or a folder.",
            rich_help_panel=_INPUTS,
        ),
    ],
    second: Annotated[str, Option(help="Inputs without it.", rich_help_panel=_INPUTS)],
    out: Annotated[Path, Option(help="JSON file to write.")],
    method: Annotated[
        Method,
        Option(
            help="auroc: latents one by one; logistic: one regression on all.",
            rich_help_panel=_CHOICE,
        ),
    ] = Method.auroc,
    n: Annotated[int, Option(help="Most latents.", rich_help_panel=_CHOICE)] = 25,
    sides: Annotated[
        Sides,
        Option(
            help="first: only latents that are larger on the first inputs.",
            rich_help_panel=_CHOICE,
        ),
    ] = Sides.both,
    permutations: Annotated[
        int,
        Option(
            help="Of the labels, for p-values; 0 for none.", rich_help_panel=_CHOICE
        ),
    ] = 100,
    seed: Annotated[
        int, Option(help="Of halves and permutations.", rich_help_panel=_CHOICE)
    ] = 0,
    split: Annotated[
        Split, Option(help="Part of the data.", rich_help_panel=_INPUTS)
    ] = Split.train,
    device: Annotated[
        str, Option(help="Torch device; auto: cuda, else mps, else cpu.")
    ] = "auto",
    allow_pickle: Annotated[
        bool,
        Option("--allow-pickle", help="Read SAEs that are pickle files, tensors only."),
    ] = False,
) -> None:
    """Choose the latents that separate two sets of texts, images or clips."""
    require_bench("select")
    from eval_recipes.select.inputs import select_by_data
    from eval_recipes.steering.select.contrast import select_by_texts
    from saereg_plugin.files import write_json
    from saereg_plugin.machine import resolve_device
    from saereg_plugin.releases.opening import register_release

    place = resolve_device(device)
    sae = register_release(sae_release, allow_pickle=allow_pickle).load(
        sae_id, device=place
    )
    options: dict[str, Any] = {
        "device": place,
        "method": method.value,
        "n": n,
        "sides": sides.value,
        "permutations": permutations,
        "seed": seed,
    }
    of_text = sae.cfg.metadata.get("activation_source") is None
    with working():
        if of_text:
            found = select_by_texts(sae, first, second, **options)
        else:
            found = select_by_data(sae, first, second, split=split.value, **options)
    write_json(out, found.to_json())
    _print_selection(found)
    open_console().print(f"Wrote {shown(out)}.")
    if of_text and found.larger_on_first:
        chosen = f"steering.latents={found.larger_on_first}"
        open_console().print(
            "To steer with those that are larger on the first inputs: saereg-bench run ... "
            f"--option {shown(repr(chosen))}"
        )


def _print_selection(found: Any) -> None:
    """Print a ``Selection``."""
    from eval_recipes.tables.table import cell, digits, plain_table

    table = plain_table(f"{found.n_first} first and {found.n_second} second inputs")
    for head in ("latent", "score", "AUROC chosen by", "AUROC on the others", "p"):
        table.add_column(head)
    for one in found.latents:
        p = "-" if one.p_value is None else digits(one.p_value)
        values = (digits(one.score), digits(one.selected), cell(one.measured), p)
        table.add_row(str(one.latent), *(shown(value) for value in values))
    console = open_console(soft_wrap=False)
    console.print(table)
    console.print(f"All together on the others: AUROC {shown(cell(found.together))}")
