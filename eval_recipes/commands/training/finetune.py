"""``saereg-bench finetune``."""

from __future__ import annotations

import tempfile
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from eval_recipes.commands.console import open_console, shown, working
from eval_recipes.commands.flags import listed
from eval_recipes.commands.train import print_plan, print_result

_LOSS, _TRAINING, _TEXT, _OUTPUT = "Loss", "Training", "Text", "Output"


class LossChoice(str, Enum):
    """Choices of ``--loss``."""

    mse = "mse"
    kl = "kl"
    both = "kl+mse"
    e2e = "e2e"


def finetune(
    release: Annotated[str, Argument(help="Release: a folder, or a public name.")],
    out: Annotated[
        Path,
        Option(
            help="Release folder to write; the same command resumes.",
            rich_help_panel=_OUTPUT,
        ),
    ],
    loss: Annotated[
        LossChoice,
        Option(
            help="mse is the control; e2e adds the errors of later layers to KL.",
            rich_help_panel=_LOSS,
        ),
    ] = LossChoice.both,
    kl_coefficient: Annotated[
        float, Option(help="Of e2e: weight of KL.", min=0, rich_help_panel=_LOSS)
    ] = 0.5,
    downstream_coefficient: Annotated[
        float,
        Option(
            help="Of e2e: weight of the mean squared error of later layers.",
            min=0,
            rich_help_panel=_LOSS,
        ),
    ] = 2.5,
    mse_coefficient: Annotated[
        float,
        Option(
            help="Of e2e: weight of the mean squared error at the hook.",
            min=0,
            rich_help_panel=_LOSS,
        ),
    ] = 0.0,
    tokens: Annotated[
        int | None,
        Option(
            help="Tokens of the fine-tune.",
            show_default="a twentieth of the training's",
            min=1,
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    lr: Annotated[
        float,
        Option(
            help="Learning rate of AdamW; it falls linearly to 0.",
            rich_help_panel=_TRAINING,
        ),
    ] = 5e-5,
    weight_decay: Annotated[
        float, Option(help="Of AdamW.", min=0, rich_help_panel=_TRAINING)
    ] = 0.01,
    seed: Annotated[
        int, Option(help="Of the order of contexts.", min=0, rich_help_panel=_TRAINING)
    ] = 0,
    contexts_per_step: Annotated[
        int, Option(help="Contexts in one step.", min=1, rich_help_panel=_TRAINING)
    ] = 8,
    sae_id: Annotated[
        list[str] | None,
        Option(
            help="SAEs by id or shell pattern, by commas or repetition; by default all.",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    field: Annotated[
        list[str] | None,
        Option(
            metavar="NAME=VALUE",
            help="Field of the SAEs' training that the release does not have, such as "
            "l1_coefficient=5; repeat for several.",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    suffix: Annotated[
        str,
        Option(help="Added to the names of groups and SAEs.", rich_help_panel=_OUTPUT),
    ] = "",
    context_size: Annotated[
        int | None,
        Option(
            help="Tokens in one context.",
            show_default="the training's",
            min=2,
            rich_help_panel=_TEXT,
        ),
    ] = None,
    skip_tokens: Annotated[
        int | None,
        Option(
            help="Tokens of the text to skip.",
            show_default="those that the training read",
            min=0,
            rich_help_panel=_TEXT,
        ),
    ] = None,
    corpus: Annotated[
        str | None,
        Option(
            help="Hub or local datasets path, or 'embedded'.",
            show_default="the training's",
            rich_help_panel=_TEXT,
        ),
    ] = None,
    llm_dtype: Annotated[
        str | None,
        Option(
            help="Data type of the language model.",
            show_default="the training's",
            rich_help_panel=_TEXT,
        ),
    ] = None,
    device: Annotated[
        str,
        Option(
            help="auto (cuda, else mps, else cpu), or a torch device.",
            rich_help_panel=_TRAINING,
        ),
    ] = "auto",
    import_: Annotated[
        list[str] | None,
        Option(
            "--import",
            help="Module or .py file that registers your own regularisers; by commas or "
            "repetition.",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    log_every: Annotated[
        int, Option(help="Steps between records.", min=1, rich_help_panel=_OUTPUT)
    ] = 25,
    checkpoint_every: Annotated[
        int, Option(help="Steps between checkpoints.", min=1, rich_help_panel=_OUTPUT)
    ] = 250,
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
            help="Begin anew: remove what an earlier run wrote into the folder.",
            rich_help_panel=_OUTPUT,
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        Option(
            "--dry-run",
            help="Measure three steps, say what the whole takes, keep nothing.",
            rich_help_panel=_OUTPUT,
        ),
    ] = False,
) -> None:
    """
    Fine-tune the SAEs of a release on the KL divergence of the language model's output.

    Regularisers, unit norm and seeds stay, and so do the weights of the language model.
    Ctrl-C stops between two steps and keeps a checkpoint; the same command resumes.
    """
    from saereg_plugin.finetuning import FineTune, plan_finetune
    from saereg_plugin.finetuning import finetune as run_finetune
    from saereg_plugin.registry import import_own

    for module in listed(import_):
        import_own(module)
    settings = FineTune(
        loss=loss.value,
        tokens=tokens,
        lr=lr,
        weight_decay=weight_decay,
        seed=seed,
        context_size=context_size,
        contexts_per_step=contexts_per_step,
        skip_tokens=skip_tokens,
        corpus=corpus,
        llm_dtype=llm_dtype,
        device=device,
        kl_coefficient=kl_coefficient,
        downstream_coefficient=downstream_coefficient,
        mse_coefficient=mse_coefficient,
        sae_ids=listed(sae_id),
        sae_fields=_fields(field or []),
        suffix=suffix,
        log_every=log_every,
        checkpoint_every=checkpoint_every,
    )
    console = open_console()
    if dry_run:
        with working(), tempfile.TemporaryDirectory() as scratch:
            print_plan(
                plan_finetune(release, Path(scratch), settings=settings), console
            )
        return

    def say(line: str) -> None:
        console.print(shown(line))

    with working():
        result = run_finetune(
            release, out=out, settings=settings, name=name, fresh=fresh, progress=say
        )
    print_result(result, out, console)


def _fields(given: list[str]) -> dict[str, Any]:
    """Return the fields of ``--field``, their values read as YAML."""
    from saereg_plugin.errors import InputError
    from saereg_plugin.yaml_text import load_yaml

    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InputError(
                f"--field {text!r}; expected NAME=VALUE, such as --field l1_coefficient=5."
            )
        found[name] = load_yaml(value, source=f"--field {name}")
    return found
