"""``saereg-bench cache``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from eval_recipes.commands.console import INTERRUPTED, open_console, shown, working
from eval_recipes.commands.flags import (
    Corpus,
    Data,
    Hook,
    ImageSize,
    LlmDtype,
    Model,
    Rows,
    Source,
    Split,
    flags_given,
    listed,
)


def cache(
    context: typer.Context,
    out: Annotated[Path, Option(help="Folder of the cache; the same command resumes.")],
    config: Annotated[
        Path | None,
        Option(
            help="YAML file with the fields of SweepConfig; a flag that is given wins over its "
            "field."
        ),
    ] = None,
    tokens: Annotated[
        int | None,
        Option(
            help="Rows that SAEs can be trained on; those of the shuffling buffer are added.",
            min=1,
            show_default="all inputs; of a text as many as train reads",
        ),
    ] = None,
    split: Annotated[
        Split, Option(help="Part of the data; a text has only train.")
    ] = Split.train,
    dtype: Annotated[
        str | None,
        Option(
            help="Round activations to this data type, such as bfloat16, and say so in the "
            "metadata of SAEs.",
            show_default="as the model gives them",
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
    device: Annotated[
        str, Option(help="Torch device; auto: cuda, else mps, else cpu.")
    ] = "auto",
) -> None:
    """
    Write activations to a folder once, from which any number of sweeps train.

    The source is that of 'train', from the same flags or the same file. SAEs that are trained
    from the cache see the same batches, bit for bit, and name the same source. Ctrl-C keeps
    what is written; the same command resumes.
    """
    from saereg_plugin.sweeps import cache_sweep, sweep_of_source

    flags = {
        "model": model,
        "hook": listed(hook) or None,
        "source": source,
        "data": listed(data) or None,
        "rows": None if rows is None else rows.value,
        "image_size": image_size,
        "corpus": corpus,
        "llm_dtype": llm_dtype,
        "device": device,
    }
    sweep = sweep_of_source(flags, flags_given(context), config=config)
    console = open_console()
    with working():
        written = cache_sweep(sweep, out, tokens=tokens, split=split.value, dtype=dtype)
    if not written.is_finished:
        console.print(
            f"Interrupted after {written.rows:,} rows; the same command resumes in {shown(out)}."
        )
        raise typer.Exit(INTERRUPTED)
    console.print(
        f"{written.rows:,} rows of {written.inputs:,} inputs, {written.bytes / 1e6:,.1f} MB, are in "
        f"{shown(out)}. Train from them with: saereg-bench train --source {shown(out)}"
    )
