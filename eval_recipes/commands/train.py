"""``saereg-bench train``."""

from __future__ import annotations

import tempfile
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from typer import Option

from eval_recipes.commands.console import (
    FAILED,
    INTERRUPTED,
    open_console,
    shown,
    working,
)
from eval_recipes.commands.flags import (
    Corpus,
    Data,
    Hook,
    ImageSize,
    LlmDtype,
    Model,
    Rows,
    Source,
    flags_given,
    listed,
    listed_numbers,
)

_SAE, _TRAINING = "SAE", "Training"
_OUTPUT, _START = "Output", "Start from"


class Autocast(str, Enum):
    """Choices of ``--autocast``."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


_AUTOCAST: dict[Autocast, Any] = {
    Autocast.AUTO: "auto",
    Autocast.ON: True,
    Autocast.OFF: False,
}


def train(
    context: typer.Context,
    out: Annotated[
        Path,
        Option(
            help="Release folder to write; the same command resumes.",
            rich_help_panel=_OUTPUT,
        ),
    ],
    config: Annotated[
        Path | None,
        Option(
            help="YAML file with the fields of SweepConfig; a flag that is given wins over its "
            "field.",
            rich_help_panel=_START,
        ),
    ] = None,
    preset: Annotated[
        str | None,
        Option(
            help="A paper's settings, by a name of saereg_plugin.presets; a flag that is given "
            "wins over its field.",
            rich_help_panel=_START,
        ),
    ] = None,
    match_alive: Annotated[
        str | None,
        Option(
            help="Release folder: train for each of its regularised groups unregularised SAEs "
            "as wide as its alive latents, all else equal.",
            rich_help_panel=_START,
        ),
    ] = None,
    model: Model = "smollm2-135m-instruct",
    hook: Hook = None,
    source: Source = None,
    data: Data = None,
    rows: Rows = None,
    image_size: ImageSize = None,
    corpus: Corpus = "embedded",
    llm_dtype: LlmDtype = "auto",
    architecture: Annotated[
        list[str] | None,
        Option(
            metavar="NAMES",
            help="Architectures, by commas or repetition.",
            show_default="regularized_topk",
            rich_help_panel=_SAE,
        ),
    ] = None,
    d_sae: Annotated[int, Option(help="Latents.", rich_help_panel=_SAE)] = 4608,
    expansion: Annotated[
        int | None,
        Option(
            help="Latents for each dimension of the activations, instead of --d-sae.",
            min=1,
            rich_help_panel=_SAE,
        ),
    ] = None,
    k: Annotated[
        list[str] | None,
        Option(
            metavar="INTEGERS",
            help="Active latents of TopK kinds, by commas or repetition.",
            show_default="SAELens': 100",
            rich_help_panel=_SAE,
        ),
    ] = None,
    unit_norm: Annotated[
        bool,
        Option(
            help="Keep the decoder's rows at norm 1, or leave them free.",
            rich_help_panel=_SAE,
        ),
    ] = True,
    regularizer: Annotated[
        list[str] | None,
        Option(
            help="NAME=COEFFICIENT,FIELD=VALUE,..., or JSON, or none; '+' joins several in one "
            "SAE; repeat for several groups. 'saereg-bench list' has the names.",
            rich_help_panel=_SAE,
        ),
    ] = None,
    coefficient: Annotated[
        list[str] | None,
        Option(
            metavar="NUMBERS",
            help="Short for --regularizer weight_penalty=COEFFICIENT; 0 for none; by commas or "
            "repetition.",
            rich_help_panel=_SAE,
        ),
    ] = None,
    norm: Annotated[
        str,
        Option(
            help="Norm of --coefficient: l1, l2 or frobenius.", rich_help_panel=_SAE
        ),
    ] = "l2",
    mechanic: Annotated[
        list[str] | None,
        Option(
            help="Mechanic of all SAEs, written as a regulariser is; repeat for several.",
            rich_help_panel=_SAE,
        ),
    ] = None,
    import_: Annotated[
        list[str] | None,
        Option(
            "--import",
            help="Module or .py file that registers your own regularisers; by commas or "
            "repetition.",
            rich_help_panel=_SAE,
        ),
    ] = None,
    seed: Annotated[
        list[str] | None,
        Option(
            metavar="INTEGERS",
            help="Seeds, by commas or repetition.",
            show_default="0,1,2",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    tokens: Annotated[
        int, Option(help="Training tokens.", rich_help_panel=_TRAINING)
    ] = 1_000_000,
    batch_size: Annotated[
        int, Option(help="Tokens in one step.", rich_help_panel=_TRAINING)
    ] = 2048,
    lr: Annotated[
        float, Option(help="Learning rate of Adam.", rich_help_panel=_TRAINING)
    ] = 3e-4,
    autocast: Annotated[
        Autocast,
        Option(
            help="Train with bfloat16 products; auto: where the hardware has them.",
            rich_help_panel=_TRAINING,
        ),
    ] = Autocast.AUTO,
    device: Annotated[
        str,
        Option(
            help="auto (cuda, else mps, else cpu), or a torch device.",
            rich_help_panel=_TRAINING,
        ),
    ] = "auto",
    log_every: Annotated[
        int,
        Option(
            help="Steps between training records; the first and the last are also recorded.",
            min=1,
            rich_help_panel=_OUTPUT,
        ),
    ] = 25,
    wandb: Annotated[
        str | None,
        Option(
            metavar="PROJECT",
            help="Log to this project of Weights & Biases: a run per SAE, in a group named as the "
            "release. WANDB_MODE=offline works.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    name: Annotated[
        str | None,
        Option(
            help="Name of the release; by default its folder's.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    fresh: Annotated[
        bool,
        Option(
            "--fresh",
            help="Train anew: remove what an earlier run wrote into the folder.",
            rich_help_panel=_OUTPUT,
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        Option(
            "--dry-run",
            help="Measure three steps, say what the whole takes and which latents are predicted to "
            "start dead; keep nothing.",
            rich_help_panel=_OUTPUT,
        ),
    ] = False,
) -> None:
    """
    Train a grid of SAEs on one stream of activations and write a release folder.

    Every combination of architecture, k and regulariser is a group, trained once per seed.
    Unless --config or --preset says otherwise, activations are scaled to a mean norm of
    sqrt(d_in) for training; the scale is folded into the weights that are saved.
    Ctrl-C stops between two steps and keeps a checkpoint; the same command resumes.
    """
    from saereg_plugin.registry import import_own
    from saereg_plugin.sweeps import (
        matched_sweep,
        plan_sweep,
        release_name,
        run_sweep,
        sweep_from_flags,
        wandb_logger,
    )

    for module in listed(import_):
        import_own(module)
    given = flags_given(context)
    if match_alive is not None:
        _refuse_other_flags(given)
        sweep = matched_sweep(match_alive, device=device if "device" in given else None)
    else:
        sweep = sweep_from_flags(
            {
                "model": model,
                "hook": listed(hook) or None,
                "source": source,
                "data": listed(data) or None,
                "rows": None if rows is None else rows.value,
                "image_size": image_size,
                "corpus": corpus,
                "llm_dtype": llm_dtype,
                "architecture": listed(architecture) or ["regularized_topk"],
                "d_sae": d_sae,
                "expansion": expansion,
                "k": listed_numbers("--k", k, int) or None,
                "unit_norm": unit_norm,
                "regularizer": regularizer,
                "coefficient": listed_numbers("--coefficient", coefficient, float)
                or None,
                "norm": norm,
                "mechanic": mechanic,
                "seed": listed_numbers("--seed", seed, int) or None,
                "tokens": tokens,
                "batch_size": batch_size,
                "lr": lr,
                "autocast": _AUTOCAST[autocast],
                "device": device,
                "log_every": log_every,
            },
            given,
            config=config,
            preset=preset,
        )
    console = open_console()
    with working():
        _say_if_plain(sweep, console, is_control=match_alive is not None)
    if match_alive is not None:
        _say_widths(sweep, console)
    if dry_run:
        release_name(sweep, out, name)
        with tempfile.TemporaryDirectory() as scratch:
            print_plan(plan_sweep(sweep, Path(scratch)), console)
        return

    def say(line: str) -> None:
        console.print(shown(line))

    with working():
        result = run_sweep(
            sweep,
            out,
            name=name,
            fresh=fresh,
            logger=None if wandb is None else wandb_logger(sweep, wandb),
            progress=say,
        )
    print_result(result, out, console)


def _refuse_other_flags(given: set[str]) -> None:
    """Refuse flags next to ``--match-alive``."""
    from saereg_plugin.errors import InputError

    allowed = {"out", "match_alive", "name", "dry_run", "fresh", "import_", "device"}
    allowed |= {"verbose", "quiet", "wandb"}
    others = [f"--{name.replace('_', '-')}" for name in sorted(given - allowed)]
    if others:
        raise InputError(
            f"--match-alive and {', '.join(others)} exclude one another; the control is trained "
            "as the release was."
        )


def _say_if_plain(sweep: Any, console: Console, *, is_control: bool) -> None:
    """Say that no SAE of a sweep is regularised, and how to change that."""
    from saereg_plugin.sweeps import is_regularized

    if not is_control and not is_regularized(sweep):
        console.print(
            "No regulariser acts, so these SAEs are trained as SAELens' own. Add for example "
            "--regularizer weight_penalty=0.005; 'saereg-bench list' names all."
        )


def _say_widths(sweep: Any, console: Console) -> None:
    """Say how wide each control is: the median of the alive latents of its group."""
    for group, fields in sweep.groups.items():
        source = shown(sweep.matched_to[group])
        console.print(
            f"{shown(group)}: {fields['d_sae']:,} latents, as many as are alive in {source}.",
            soft_wrap=True,
        )


_MOST_ROWS = 40
"""Longest table of SAEs that is printed after training."""


def _print_last_records(release: Any, out: Path, console: Console) -> None:
    """Print a table of the SAEs in their last recorded step, and how to read the records."""
    from saereg_plugin.sweeps import last_records

    last = last_records(out, release.ids)
    if last.empty:
        return
    table = Table("SAE", "loss", "expl. var.", "L0", box=None, pad_edge=False)
    for name, row in last.head(_MOST_ROWS).iterrows():
        table.add_row(shown(name), *(f"{value:.4g}" for value in row))
    console.print(table)
    left = len(last) - _MOST_ROWS
    more = f" {left} more SAEs are not shown." if left > 0 else ""
    console.print(
        f"Figures of the last batch.{more} sr.load_records({shown(repr(str(out)))}) has every record."
    )


def print_result(result: Any, out: Path, console: Console) -> None:
    """Print where the release is, or how to resume; exit with the status for it."""
    for stopped in result.stopped:
        console.print(f"[red]stopped[/] {shown(stopped)}")
    if result.release is None:
        console.print(
            f"Interrupted; the same command resumes from the checkpoint in {shown(out)}."
        )
        raise typer.Exit(INTERRUPTED)
    _print_last_records(result.release, out, console)
    console.print(
        f"Release {shown(repr(result.release.name))} with {len(result.release.entries)} SAEs is in "
        f"{shown(out)}."
    )
    if result.stopped:
        raise typer.Exit(FAILED)


def print_plan(plan: Any, console: Console) -> None:
    console.print(
        f"{plan.saes} SAEs, {plan.parameters:,} parameters in all, {plan.steps:,} steps each.\n"
        f"Memory: {plan.memory_gib:.1f} GiB in three steps, by arithmetic at least "
        f"{plan.least_memory_gib:.1f} GiB; {plan.has_memory_gib:.1f} GiB are there.\n"
        f"Disk: {plan.disk_gib:.1f} GiB with checkpoints.\n"
        f"Time: {plan.seconds / 60:.1f} minutes, from three measured steps."
    )
    _print_born_dead(plan.born_dead, console)


def _print_born_dead(predicted: Any, console: Console) -> None:
    """Print what outliers of the activations are predicted to do to the latents."""
    for one in predicted:
        start = f"{shown(one.group)}: outlier severity gamma {one.gamma:.2f}; "
        if one.centred:
            told = "the decoder bias starts centred, so that few latents start dead."
        else:
            told = (
                f"{one.share:.1%} of the latents are predicted to start dead "
                f"({one.published:.1%} by the formula of arXiv 2605.31518)."
            )
        console.print(start + told, soft_wrap=True)
    if any(one.is_severe for one in predicted):
        console.print(
            "To centre, set b_dec_init: geometric_median among the fields of the SAEs (--config); it "
            "removes born-dead latents (arXiv 2605.31518). AuxK prevents later deaths alone.",
            soft_wrap=True,
        )
