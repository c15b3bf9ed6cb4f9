"""``saereg-bench run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer import Option

from eval_recipes.commands.console import (
    FAILED,
    open_console,
    print_outcome,
    require_bench,
    shown,
    working,
)
from eval_recipes.commands.flags import (
    contrast_flag,
    explanations_flag,
    facts_flag,
    judge_flags,
    listed,
    offline_sources,
)
from eval_recipes.registry import RECIPES

_DATA = "Model and data"
_EVALUATION = "Evaluation"
_CHAT = "Chat model (autointerp, steering)"
_OUTPUT = "Output"


def run(
    sae_release: Annotated[
        str,
        Option(
            help="Release folder, public release name, or hub repository (owner/name, or "
            "owner/name@revision).",
            rich_help_panel=_DATA,
        ),
    ],
    evals: Annotated[
        list[str] | None,
        Option(
            metavar="NAMES",
            help=f"Evaluations, by commas or repetition: {', '.join(RECIPES)}.",
            show_default="core,cross_seed; without a language model cross_seed,examples",
            rich_help_panel=_EVALUATION,
        ),
    ] = None,
    sae_id: Annotated[
        list[str] | None,
        Option(
            metavar="IDS",
            help="SAE ids or shell patterns, by commas or repetition; all by default.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    group_by: Annotated[
        str | None,
        Option(
            help="Regular expression with (?P<seed>...), or YAML file: groups and seeds.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    corpus: Annotated[
        str | None,
        Option(
            help="Text to evaluate on (its held-out part): 'embedded', a folder, or a hub name.",
            show_default="the SAEs' own data set if it can be read, else 'embedded'",
            rich_help_panel=_DATA,
        ),
    ] = None,
    source: Annotated[
        str | None,
        Option(
            metavar="PATH",
            help="SAEs on other activations than a language model's: a cache of held-out "
            "activations, or arrays of them.",
            show_default="the held-out part of the SAEs' own source",
            rich_help_panel=_DATA,
        ),
    ] = None,
    heldout_tokens: Annotated[
        int,
        Option(
            help="Tokens, or rows of other activations, for explained variance, L0 and alive "
            "latents.",
            rich_help_panel=_EVALUATION,
        ),
    ] = 65_536,
    llm_dtype: Annotated[
        str,
        Option(
            help="Data type of the language model; auto: bfloat16 on CUDA devices that "
            "multiply it in hardware, else float32.",
            rich_help_panel=_DATA,
        ),
    ] = "auto",
    device: Annotated[
        str,
        Option(
            help="Torch device; auto: cuda, else mps, else cpu.", rich_help_panel=_DATA
        ),
    ] = "auto",
    seed: Annotated[
        int, Option(help="Seed of every random draw.", rich_help_panel=_EVALUATION)
    ] = 0,
    data: Annotated[
        str | None,
        Option(
            help="Labelled texts: SAEBench's from the 'hub', or 'embedded' ones of the same "
            "shape (scores not comparable with published ones).",
            show_default="hub",
            rich_help_panel=_DATA,
        ),
    ] = None,
    offline: Annotated[
        bool,
        Option(
            "--offline",
            help="Read nothing from a hub or a chat model: the same as --corpus embedded "
            "--data embedded --explainer tokens.",
            rich_help_panel=_DATA,
        ),
    ] = False,
    option: Annotated[
        list[str] | None,
        Option(
            help="Setting of an evaluation, eval.name=value; repeat for several.",
            rich_help_panel=_EVALUATION,
        ),
    ] = None,
    options: Annotated[
        Path | None,
        Option(
            help="YAML file of settings by evaluation; --option wins.",
            rich_help_panel=_EVALUATION,
        ),
    ] = None,
    judge_model: Annotated[
        str | None,
        Option(
            help="Chat model that explains and judges; in steering it judges first, before "
            "the offline judges, unless steering.judges says who does.",
            rich_help_panel=_CHAT,
        ),
    ] = None,
    judge_base_url: Annotated[
        str | None,
        Option(
            help="OpenAI-compatible server; the key is read from OPENAI_API_KEY.",
            rich_help_panel=_CHAT,
        ),
    ] = None,
    explainer: Annotated[
        str | None,
        Option(
            help="'judge'; or 'tokens' (steering's default) or 'n2g' for explanations without any "
            "server.",
            rich_help_panel=_CHAT,
        ),
    ] = None,
    explanations: Annotated[
        Path | None,
        Option(
            help="steering: take explanations from this file of Neuronpedia (a feature, a list of "
            "features, or explanations as .jsonl or .jsonl.gz), or from autointerp's results in "
            "this folder.",
            rich_help_panel=_EVALUATION,
        ),
    ] = None,
    facts: Annotated[
        str | None,
        Option(
            metavar="FILE",
            help="steering: also measure look-ahead on the dated facts of this file (.jsonl, .csv), or "
            "on the 'embedded' ones.",
            rich_help_panel=_EVALUATION,
        ),
    ] = None,
    select: Annotated[
        tuple[str, str, str] | None,
        Option(
            metavar="contrast A.txt B.txt",
            help="steering: steer with the latents that best separate two files of texts, one a "
            "line, towards the first.",
            rich_help_panel=_EVALUATION,
        ),
    ] = None,
    out: Annotated[
        Path, Option(help="Folder for the results.", rich_help_panel=_OUTPUT)
    ] = Path("eval_results"),
    artifacts: Annotated[
        Path | None,
        Option(
            help="Folder of what is kept between runs; by default in the user's cache.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    clean_artifacts: Annotated[
        bool,
        Option(
            help="Remove everything kept in that folder after the run, replies of judges too.",
            rich_help_panel=_OUTPUT,
        ),
    ] = False,
    report: Annotated[
        bool,
        Option(
            "--report",
            help="Write a page about all results in the folder, report.html.",
            rich_help_panel=_OUTPUT,
        ),
    ] = False,
    trust_remote_code: Annotated[
        bool,
        Option(
            help="Load the language model as the release says, code of the release included. "
            "Only for releases whose authors you trust.",
            rich_help_panel=_DATA,
        ),
    ] = False,
    allow_pickle: Annotated[
        bool,
        Option(
            "--allow-pickle",
            help="Read SAEs that are pickle files (dictionary_learning's ae.pt), tensors only.",
            rich_help_panel=_DATA,
        ),
    ] = False,
    memory_gib: Annotated[
        float,
        Option(
            help="Bound on activations held in memory, in GiB.",
            rich_help_panel=_EVALUATION,
        ),
    ] = 4.0,
    fresh: Annotated[
        bool,
        Option(
            "--fresh",
            help="Redo results that are current, too. By default only results that are missing, "
            "damaged or of another configuration are made.",
            rich_help_panel=_OUTPUT,
        ),
    ] = False,
    resume: Annotated[
        bool, Option("--resume", hidden=True, help="The default since 0.2.0.")
    ] = False,
) -> None:
    """
    Evaluate the SAEs of a release; write one JSON file in SAEBench's format per SAE and evaluation.

    Results that are current are kept. A failed evaluation is reported and the others run; the
    exit status is then 1.
    """
    require_bench("run")
    from eval_recipes.running.artifact_space import space_note
    from eval_recipes.running.artifacts import default_artifacts
    from eval_recipes.running.check import checked_data
    from eval_recipes.running.context import ModelCache, RunContext, resolve_dtype
    from eval_recipes.running.corpus import choose_corpus
    from eval_recipes.running.evaluate import default_evals
    from eval_recipes.running.options import read_options
    from eval_recipes.running.run import run_evals, subjects_of
    from saereg_plugin.errors import InputError
    from saereg_plugin.machine import resolve_device
    from saereg_plugin.releases.opening import open_release

    console = open_console(soft_wrap=False)
    flags = {
        "judge_model": judge_model,
        "judge_base_url": judge_base_url,
        "explainer": explainer,
    }
    if fresh and resume:
        raise InputError("--fresh and --resume exclude each other; give one.")
    release = open_release(sae_release, allow_pickle=allow_pickle)
    subjects = subjects_of(
        release,
        patterns=listed(sae_id),
        group_by=group_by,
        allow_pickle=allow_pickle,
    )
    names = [*default_evals(subjects)] if evals is None else listed(evals)
    if offline:
        corpus, data = offline_sources(names, corpus, data, flags)
    given = [
        *([str(options)] if options else []),
        *judge_flags(names, flags),
        *contrast_flag(select),
        *explanations_flag(explanations),
        *facts_flag(facts),
        *(option or []),
    ]
    if report:
        from eval_recipes.report.page import PAGE, require_page

        require_page(out / PAGE)
    place = resolve_device(device)
    context = RunContext(
        subjects=subjects,
        out=out,
        source=source,
        heldout_tokens=heldout_tokens,
        dtype=resolve_dtype(llm_dtype, place),
        device=place,
        seed=seed,
        data=checked_data(data or "hub"),
        artifacts=artifacts or default_artifacts(),
        memory_gib=memory_gib,
        options=read_options(given, names),
        models=ModelCache(trust_remote_code=trust_remote_code),
    )
    try:
        with working():
            text = choose_corpus(
                names, context.subjects, corpus, heldout_tokens=heldout_tokens
            )
            context.corpus = text.name
            _print_setting(context, text.said, console)
            outcome = run_evals(
                names,
                context,
                resume=not fresh,
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
    failed = print_outcome(outcome, console)
    note = space_note(context.artifacts)
    if note:
        console.print(shown(note), soft_wrap=True)
    if outcome.kept:
        console.print("--fresh makes these again.")
    if report:
        _write_page(out, release, outcome, console)
    if failed:
        raise typer.Exit(FAILED)


def _print_setting(context: Any, said: str, console: Console) -> None:
    """Print where the run computes, in what, and what it reads."""
    from eval_recipes.running.corpus import read_other_sources

    model = "model" if read_other_sources(context.subjects) else "language model"
    console.print(f"Device {context.device}, {model} in {context.dtype}.", markup=False)
    if said:
        console.print(shown(said), soft_wrap=True)


def _write_page(out: Path, release: Any, outcome: Any, console: Console) -> None:
    """Write the page about a folder of results, if it holds any, and print its path."""
    from eval_recipes.report.page import write_report
    from eval_recipes.results.reading import result_files

    if not result_files(out):
        return
    known = release if release.has_manifest else None
    page = write_report(out, release=known, failures=outcome.failures)
    console.print(f"Open {shown(page)} in a browser.", soft_wrap=True)


def _clean(root: Path) -> None:
    """Remove all artefacts, where there are any."""
    from eval_recipes.running.artifact_space import clean_artifacts
    from eval_recipes.running.artifacts import open_artifacts

    if root.is_dir():
        clean_artifacts(open_artifacts(root))
