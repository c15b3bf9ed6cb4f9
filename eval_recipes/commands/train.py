"""``saereg-bench train``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer import Option

from eval_recipes.commands.console import FAILED, INTERRUPTED, open_console, shown


def train(
    context: typer.Context,
    out: Annotated[
        Path, Option(help="Release folder to write; the same command resumes.")
    ],
    config: Annotated[
        Path | None,
        Option(
            help="YAML file with the fields of SweepConfig; replaces the flags below."
        ),
    ] = None,
    match_alive: Annotated[
        str | None,
        Option(
            help="Release folder: train for each of its regularised groups unregularised SAEs "
            "as wide as its alive latents, all else equal; replaces the flags below."
        ),
    ] = None,
    model: Annotated[
        str,
        Option(
            help="TransformerLens name, local Hugging Face folder, or embedded model."
        ),
    ] = "smollm2-135m-instruct",
    hook: Annotated[str, Option(help="Hook point.")] = "blocks.2.hook_resid_post",
    corpus: Annotated[
        str, Option(help="Hub or local datasets path, or 'embedded'.")
    ] = "embedded",
    architecture: Annotated[
        list[str] | None, Option(help="Architecture; repeat for several.")
    ] = None,
    d_sae: Annotated[int, Option(help="Latents.")] = 4608,
    k: Annotated[
        list[int] | None,
        Option(help="Active latents of TopK kinds (SAELens: 100); repeat for several."),
    ] = None,
    norm: Annotated[str, Option(help="Weight penalty: l1, l2 or frobenius.")] = "l2",
    coefficient: Annotated[
        list[float] | None,
        Option(
            help="Coefficient of the weight penalty, 0 for none; repeat for several."
        ),
    ] = None,
    seed: Annotated[list[int] | None, Option(help="Seed; repeat for several.")] = None,
    tokens: Annotated[int, Option(help="Training tokens.")] = 1_000_000,
    batch_size: Annotated[int, Option(help="Tokens in one step.")] = 2048,
    lr: Annotated[float, Option(help="Learning rate of Adam.")] = 3e-4,
    unit_norm: Annotated[
        bool, Option(help="Keep the decoder's rows at norm 1, or leave them free.")
    ] = True,
    llm_dtype: Annotated[
        str, Option(help="Data type of the language model.")
    ] = "float32",
    autocast: Annotated[bool, Option(help="Train with bfloat16 products.")] = False,
    device: Annotated[str, Option(help="Torch device.")] = "cpu",
    name: Annotated[
        str | None, Option(help="Name of the release; by default its folder's.")
    ] = None,
    dry_run: Annotated[
        bool,
        Option(help="Measure three steps, say what the whole takes, keep nothing."),
    ] = False,
) -> None:
    """
    Train a grid of SAEs on one stream of activations and write a release folder.

    Every combination of architecture, k and coefficient is a group, trained once per seed.
    Ctrl-C stops between two steps and keeps a checkpoint; the same command goes on.
    """
    from saereg_plugin.sweeps import (
        matched_sweep,
        plan_sweep,
        read_sweep,
        release_name,
        run_sweep,
        sweep_from,
    )

    if config is not None:
        _refuse_other_flags("config", context)
        sweep = read_sweep(config)
    elif match_alive is not None:
        _refuse_other_flags("match_alive", context)
        sweep = matched_sweep(match_alive)
    else:
        several, single = _split_grid(
            {"architecture": architecture or ["regularized_topk"], "k": k or []}
        )
        sweep = sweep_from(
            {
                "model": model,
                "hook_name": hook,
                "corpus": corpus,
                "sae": {
                    **single,
                    "d_sae": d_sae,
                    "decoder_constraint": "unit_norm" if unit_norm else "none",
                    "normalize_activations": "expected_average_only_in",
                },
                "groups": _penalty_groups(norm, coefficient or [0.0]),
                "grid": several,
                "seeds": seed or [0, 1, 2],
                "tokens": tokens,
                "batch_size": batch_size,
                "lr": lr,
                "llm_dtype": llm_dtype,
                "autocast": autocast,
                "device": device,
            },
            source="the flags",
        )
    console = open_console()
    if dry_run:
        release_name(sweep, out, name)
        with tempfile.TemporaryDirectory() as scratch:
            _print_plan(plan_sweep(sweep, Path(scratch)), console)
        return
    result = run_sweep(
        sweep, out, name=name, progress=lambda line: console.print(shown(line))
    )
    for stopped in result.stopped:
        console.print(f"[red]stopped[/] {shown(stopped)}")
    if result.release is None:
        console.print(
            f"Interrupted; the same command resumes from the checkpoint in {shown(out)}."
        )
        raise typer.Exit(INTERRUPTED)
    console.print(
        f"Release {shown(repr(result.release.name))} with {len(result.release.entries)} SAEs is in "
        f"{shown(out)}."
    )
    if result.stopped:
        raise typer.Exit(FAILED)


def _refuse_other_flags(whole: str, context: typer.Context) -> None:
    """Refuse flags next to the flag that replaces them."""
    from saereg_plugin.errors import InputError

    allowed = {"out", whole, "name", "dry_run"}
    given = [
        f"--{name.replace('_', '-')}"
        for name in context.params
        if name not in allowed
        and getattr(context.get_parameter_source(name), "name", None) == "COMMANDLINE"
    ]
    if given:
        remedy = (
            "write the value into the YAML file."
            if whole == "config"
            else "the control is trained as the release was."
        )
        raise InputError(
            f"--{whole.replace('_', '-')} and {', '.join(given)} exclude one another; {remedy}"
        )


def _split_grid(
    values: dict[str, list[Any]],
) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """Return the fields with several values, and the fields with one value."""
    several = {name: given for name, given in values.items() if len(given) > 1}
    single = {name: given[0] for name, given in values.items() if len(given) == 1}
    return several, single


def _penalty_groups(norm: str, coefficients: list[float]) -> dict[str, dict[str, Any]]:
    """Return one group per coefficient; 0 is the group without penalty."""
    names = [f"{coefficient:g}" for coefficient in coefficients]
    if len(set(names)) != len(names):
        from saereg_plugin.errors import InputError

        raise InputError(
            f"--coefficient is {', '.join(names)}; expected different values."
        )
    return {
        "none" if coefficient == 0 else f"{norm}-{coefficient:g}": {
            "regularizers": []
            if coefficient == 0
            else [{"name": "weight_penalty", "norm": norm, "coefficient": coefficient}]
        }
        for coefficient in coefficients
    }


def _print_plan(plan: Any, console: Console) -> None:
    console.print(
        f"{plan.saes} SAEs, {plan.parameters:,} parameters in all, {plan.steps:,} steps each.\n"
        f"Memory: {plan.memory_gib:.1f} GiB in three steps, by arithmetic at least "
        f"{plan.least_memory_gib:.1f} GiB; {plan.has_memory_gib:.1f} GiB are there.\n"
        f"Disk: {plan.disk_gib:.1f} GiB with checkpoints.\n"
        f"Time: {plan.seconds / 60:.1f} minutes, from three measured steps."
    )
