"""The command ``saereg-bench``: reads arguments, calls, prints."""

from __future__ import annotations

import logging
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

# torch and SAELens take many seconds to import; commands import what they use, so that
# --help answers at once
app = typer.Typer(
    help="Train regularised sparse autoencoders beside SAELens, and evaluate SAEs beside SAEBench.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

_FAILED = 1
_BAD_INPUT = 2
_INTERRUPTED = 130


@app.command()
def train(
    context: typer.Context,
    out: Annotated[
        Path, typer.Option(help="Release folder to write; the same command resumes.")
    ],
    config: Annotated[
        Path | None,
        typer.Option(
            help="YAML file with the fields of SweepConfig; replaces the flags below."
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            help="TransformerLens name, local Hugging Face folder, or embedded model."
        ),
    ] = "smollm2-135m-instruct",
    hook: Annotated[str, typer.Option(help="Hook point.")] = "blocks.2.hook_resid_post",
    corpus: Annotated[
        str, typer.Option(help="Hub or local datasets path, or 'embedded'.")
    ] = "embedded",
    architecture: Annotated[
        list[str] | None, typer.Option(help="Architecture; repeat for several.")
    ] = None,
    d_sae: Annotated[int, typer.Option(help="Latents.")] = 4608,
    k: Annotated[
        list[int] | None,
        typer.Option(
            help="Active latents of TopK kinds (SAELens: 100); repeat for several."
        ),
    ] = None,
    norm: Annotated[
        str, typer.Option(help="Weight penalty: l1, l2 or frobenius.")
    ] = "l2",
    coefficient: Annotated[
        list[float] | None,
        typer.Option(
            help="Coefficient of the weight penalty, 0 for none; repeat for several."
        ),
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option(help="Seed; repeat for several.")
    ] = None,
    tokens: Annotated[int, typer.Option(help="Training tokens.")] = 1_000_000,
    batch_size: Annotated[int, typer.Option(help="Tokens in one step.")] = 2048,
    lr: Annotated[float, typer.Option(help="Learning rate of Adam.")] = 3e-4,
    unit_norm: Annotated[
        bool,
        typer.Option(help="Keep the decoder's rows at norm 1, or leave them free."),
    ] = True,
    llm_dtype: Annotated[
        str, typer.Option(help="Data type of the language model.")
    ] = "float32",
    autocast: Annotated[
        bool, typer.Option(help="Train with bfloat16 products.")
    ] = False,
    device: Annotated[str, typer.Option(help="Torch device.")] = "cpu",
    name: Annotated[
        str | None, typer.Option(help="Name of the release; by default its folder's.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            help="Measure three steps, say what the whole takes, keep nothing."
        ),
    ] = False,
) -> None:
    """
    Train a grid of SAEs on one stream of activations and write a release folder.

    Every combination of architecture, k and coefficient is a group, trained once per seed.
    Ctrl-C stops between two steps and keeps a checkpoint; the same command goes on.
    """
    from saereg_plugin.sweeps import plan_sweep, read_sweep, run_sweep, sweep_from

    if config is not None:
        _refuse_flags_beside_config(context)
        sweep = read_sweep(config)
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
    console = Console()
    if dry_run:
        with tempfile.TemporaryDirectory() as scratch:
            _print_plan(plan_sweep(sweep, Path(scratch)), console)
        return
    result = run_sweep(sweep, out, name=name)
    for stopped in result.stopped:
        console.print(f"[red]stopped[/] {escape(stopped)}")
    if result.release is None:
        console.print(
            f"Interrupted; the same command goes on from the checkpoint in {out}."
        )
        raise typer.Exit(_INTERRUPTED)
    console.print(
        f"Release {result.release.name!r} with {len(result.release.entries)} SAEs is in {out}."
    )
    if result.stopped:
        raise typer.Exit(_FAILED)


@app.command()
def run(
    sae_release: Annotated[
        str,
        typer.Option(help="Release folder, public release name, or hub repository."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the results.")],
    evals: Annotated[
        str,
        typer.Option(
            help="Evaluations, separated by commas; 'saereg-bench list' names them."
        ),
    ] = "core,cross_seed",
    sae_id: Annotated[
        list[str] | None,
        typer.Option(help="SAE id or shell pattern; repeat for several."),
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(
            help="Regular expression with (?P<seed>...), or YAML file: groups and seeds."
        ),
    ] = None,
    corpus: Annotated[
        str,
        typer.Option(help="Text to evaluate on (its held-out part), or 'embedded'."),
    ] = "embedded",
    heldout_tokens: Annotated[
        int, typer.Option(help="Tokens for explained variance, L0 and alive latents.")
    ] = 65_536,
    llm_dtype: Annotated[
        str, typer.Option(help="Data type of the language model.")
    ] = "float32",
    device: Annotated[str, typer.Option(help="Torch device.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Seed of every random draw.")] = 0,
) -> None:
    """
    Evaluate the SAEs of a release; one JSON file in SAEBench's format an SAE and evaluation.

    A failed evaluation is reported and the others go on; the exit status is then 1.
    """
    from eval_recipes.context import RunContext
    from eval_recipes.running import run_evals, subjects_of

    context = RunContext(
        subjects=subjects_of(sae_release, patterns=sae_id or (), group_by=group_by),
        out=out,
        corpus=corpus,
        heldout_tokens=heldout_tokens,
        dtype=llm_dtype,
        device=device,
        seed=seed,
    )
    outcome = run_evals(
        [name.strip() for name in evals.split(",") if name.strip()], context
    )
    if _report(outcome, Console()):
        raise typer.Exit(_FAILED)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for release and results.")] = Path(
        "saereg-demo"
    ),
) -> None:
    """
    Train TopK SAEs with and without L2 on a small real model, three seeds each, and compare.

    Needs no hub: model and text come from registry packages. Ctrl-C is safe; run it again.
    """
    from eval_recipes.demo import L2, PLAIN, evaluate_demo, train_demo
    from eval_recipes.reading import read_differences
    from saereg_plugin.provenance import peak_memory_gib

    console = Console()
    started = time.perf_counter()
    trained = train_demo(out)
    if trained.release is None:
        console.print("Interrupted; 'saereg-bench demo' goes on from the checkpoint.")
        raise typer.Exit(_INTERRUPTED)
    outcome = evaluate_demo(out)
    failed = _report(outcome, console)
    console.print("\n[bold]What this says[/]")
    for sentence in read_differences(outcome.differences, group=L2, other=PLAIN):
        console.print(f"- {escape(sentence)}")
    console.print(
        f"\nTook {(time.perf_counter() - started) / 60:.1f} minutes (training "
        f"{trained.seconds / 60:.1f}) and {peak_memory_gib():.1f} GiB at the most."
    )
    if failed or trained.stopped:
        raise typer.Exit(_FAILED)


@app.command("list")
def list_(
    releases: Annotated[
        bool, typer.Option(help="List SAELens' public releases, too.")
    ] = False,
) -> None:
    """List architectures, regularisers, evaluations and models."""
    import saereg_plugin  # noqa: F401  # pyright: ignore[reportUnusedImport]  (registers)
    from eval_recipes.listing import sections

    console = Console()
    for title, rows in sections(public_releases=releases).items():
        table = Table(
            title=title,
            title_justify="left",
            box=None,
            show_header=False,
            pad_edge=False,
        )
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        console.print(table)
        console.print()


def main() -> None:
    """Run the command; bad input ends with one clear error and status 2."""
    _quieten()
    try:
        app()
    except ValueError as error:
        from saereg_plugin.errors import InputError

        if not isinstance(error, InputError):
            raise
        console = Console(stderr=True, soft_wrap=True)
        console.print(f"[bold red]error:[/] {escape(str(error))}")
        sys.exit(_BAD_INPUT)


def _refuse_flags_beside_config(context: typer.Context) -> None:
    from saereg_plugin.errors import InputError

    beside = {"out", "config", "name", "dry_run"}
    given = [
        f"--{name.replace('_', '-')}"
        for name in context.params
        if name not in beside
        and getattr(context.get_parameter_source(name), "name", None) == "COMMANDLINE"
    ]
    if given:
        raise InputError(
            f"--config and {', '.join(given)} exclude one another; write the value into the YAML file."
        )


def _split_grid(
    values: dict[str, list[Any]],
) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """Return the fields with several values, and those with one."""
    several = {name: given for name, given in values.items() if len(given) > 1}
    single = {name: given[0] for name, given in values.items() if len(given) == 1}
    return several, single


def _penalty_groups(norm: str, coefficients: list[float]) -> dict[str, dict[str, Any]]:
    """Return one group a coefficient; 0 is the group without penalty."""
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
        f"Memory: {plan.memory_gib:.1f} GiB so far, at the most.\n"
        f"Disk: {plan.disk_gib:.1f} GiB with a checkpoint.\n"
        f"Time: {plan.seconds / 60:.1f} minutes, from three measured steps."
    )


def _report(outcome: Any, console: Console) -> bool:
    """Print the tables and the failures; return whether there were failures."""
    from eval_recipes.report import print_table

    print_table(outcome.frame, console, outcome.differences)
    console.print(f"\nAll figures: {outcome.summary}")
    for failure in outcome.failures:
        console.print(
            f"[red]failed[/] {failure.eval} of {escape(failure.sae_id)}: {escape(failure.cause)}"
        )
    return bool(outcome.failures)


def _quieten() -> None:
    """Keep what other packages say about themselves out of the user's way."""
    warnings.filterwarnings(
        "ignore", category=DeprecationWarning, module="transformer_lens"
    )
    warnings.filterwarnings("ignore", message=".*from_pretrained is deprecated.*")
    warnings.filterwarnings(
        "ignore", message=".*non-empty model_from_pretrained_kwargs.*"
    )
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")


if __name__ == "__main__":
    main()
