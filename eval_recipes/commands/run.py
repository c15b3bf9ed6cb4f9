"""``saereg-bench run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from eval_recipes.commands.console import (
    FAILED,
    open_console,
    print_outcome,
    require_bench,
)
from eval_recipes.registry import RECIPES


def run(
    sae_release: Annotated[
        str,
        Option(help="Release folder, public release name, or hub repository."),
    ],
    out: Annotated[Path, Option(help="Folder for the results.")] = Path("eval_results"),
    evals: Annotated[
        str,
        Option(help=f"Evaluations, separated by commas: {', '.join(RECIPES)}."),
    ] = "core,cross_seed",
    sae_id: Annotated[
        list[str] | None,
        Option(help="SAE id or shell pattern; repeat for several."),
    ] = None,
    group_by: Annotated[
        str | None,
        Option(
            help="Regular expression with (?P<seed>...), or YAML file: groups and seeds."
        ),
    ] = None,
    corpus: Annotated[
        str,
        Option(help="Text to evaluate on (its held-out part), or 'embedded'."),
    ] = "embedded",
    heldout_tokens: Annotated[
        int, Option(help="Tokens for explained variance, L0 and alive latents.")
    ] = 65_536,
    llm_dtype: Annotated[
        str, Option(help="Data type of the language model.")
    ] = "float32",
    device: Annotated[str, Option(help="Torch device.")] = "cpu",
    seed: Annotated[int, Option(help="Seed of every random draw.")] = 0,
    data: Annotated[
        str,
        Option(
            help="Labelled texts: SAEBench's from the hub, or 'embedded' ones of the same "
            "shape (scores not comparable with published ones)."
        ),
    ] = "hub",
    option: Annotated[
        list[str] | None,
        Option(help="Setting of an evaluation, eval.name=value; repeat for several."),
    ] = None,
    options: Annotated[
        Path | None,
        Option(help="YAML file of settings by evaluation; --option wins."),
    ] = None,
    judge_model: Annotated[
        str | None,
        Option(
            help="autointerp, steering: chat model that explains and judges; in steering it "
            "judges first, before the offline judges, unless steering.judges says who does."
        ),
    ] = None,
    judge_base_url: Annotated[
        str | None,
        Option(
            help="autointerp, steering: OpenAI-compatible server; the key is read from "
            "OPENAI_API_KEY."
        ),
    ] = None,
    explainer: Annotated[
        str | None,
        Option(
            help="autointerp, steering: 'judge', or 'tokens' for explanations without any server "
            "(steering's default)."
        ),
    ] = None,
    select: Annotated[
        tuple[str, str, str] | None,
        Option(
            metavar="contrast A.txt B.txt",
            help="steering: steer with the latents that best separate two files of texts, one a "
            "line, towards the first.",
        ),
    ] = None,
    artifacts: Annotated[
        Path | None,
        Option(
            help="Folder of what is kept between runs; by default in the user's cache."
        ),
    ] = None,
    clean_artifacts: Annotated[
        bool,
        Option(
            help="Remove everything kept in that folder after the run, replies of judges too."
        ),
    ] = False,
    trust_remote_code: Annotated[
        bool,
        Option(
            help="Load the language model as the release says, code of the release included. "
            "Only for releases whose authors you trust."
        ),
    ] = False,
    memory_gib: Annotated[
        float, Option(help="Bound on activations held in memory, in GiB.")
    ] = 4.0,
    resume: Annotated[
        bool,
        Option(
            help="Redo only results that are missing, damaged or of another configuration."
        ),
    ] = False,
) -> None:
    """
    Evaluate the SAEs of a release; write one JSON file in SAEBench's format per SAE and evaluation.

    A failed evaluation is reported and the others run; the exit status is then 1.
    """
    require_bench("run")
    from eval_recipes.running.artifacts import default_artifacts
    from eval_recipes.running.check import checked_data
    from eval_recipes.running.context import ModelCache, RunContext
    from eval_recipes.running.options import read_options
    from eval_recipes.running.run import run_evals, subjects_of
    from saereg_plugin.errors import InputError

    console = open_console(soft_wrap=False)
    names = [name.strip() for name in evals.split(",") if name.strip()]
    given = [
        *([str(options)] if options else []),
        *judge_flags(
            names,
            {
                "judge_model": judge_model,
                "judge_base_url": judge_base_url,
                "explainer": explainer,
            },
        ),
        *contrast_flag(select),
        *(option or []),
    ]
    context = RunContext(
        subjects=subjects_of(sae_release, patterns=sae_id or (), group_by=group_by),
        out=out,
        corpus=corpus,
        heldout_tokens=heldout_tokens,
        dtype=llm_dtype,
        device=device,
        seed=seed,
        data=checked_data(data),
        artifacts=artifacts or default_artifacts(),
        memory_gib=memory_gib,
        options=read_options(given, names),
        models=ModelCache(trust_remote_code=trust_remote_code),
    )
    try:
        outcome = run_evals(
            names,
            context,
            resume=resume,
            progress=lambda line: console.print(line, markup=False),
        )
    except InputError:
        # nothing ran; what earlier runs keep is not this one's to remove
        raise
    except BaseException:
        if clean_artifacts:
            _clean(context.artifacts)
        raise
    if clean_artifacts:
        _clean(context.artifacts)
    if print_outcome(outcome, console):
        raise typer.Exit(FAILED)


def _clean(root: Path) -> None:
    """Remove all artefacts, where there are any."""
    from eval_recipes.running.artifact_space import clean_artifacts
    from eval_recipes.running.artifacts import open_artifacts

    if root.is_dir():
        clean_artifacts(open_artifacts(root))


def judge_flags(names: list[str], flags: dict[str, str | None]) -> list[str]:
    """Return the flags of a chat model as options of the evaluations that ask one."""
    import json

    from eval_recipes.chat.options import ChatOptions
    from eval_recipes.registry import load_evaluation

    judged = [
        name
        for name in names
        if name in RECIPES and issubclass(load_evaluation(name).Options, ChatOptions)
    ]
    return [
        # nothing would be YAML's null, and so the default
        f"{name}.{flag}={value or json.dumps(value)}"
        for name in judged or ["autointerp"]
        for flag, value in flags.items()
        if value is not None
    ]


def contrast_flag(select: tuple[str, str, str] | None) -> list[str]:
    """
    Return ``--select contrast A.txt B.txt`` as options of steering.

    Raises:
        InputError: for another word than ``contrast``.
    """
    import json

    from saereg_plugin.errors import InputError

    if select is None:
        return []
    how, towards, away = select
    if how != "contrast":
        raise InputError(
            f"--select {how!r}; expected 'contrast' and two files of texts. Other choices are "
            "options: --option steering.select=stable."
        )
    return [
        "steering.select=contrast",
        f"steering.contrast={json.dumps([towards, away])}",
    ]
