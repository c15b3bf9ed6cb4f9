"""Settings of the recipe ``sae_probes``, and what it refuses."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sae_lens.loading.pretrained_sae_loaders import load_sae_config_from_huggingface
from sae_probes import DATASETS

from eval_recipes.results.files import check_unique_paths
from eval_recipes.running.context import RunContext
from eval_recipes.running.each_subject import options_of
from eval_recipes.saebench.sae_probes.output import KS
from eval_recipes.saebench.upstream import has_heads
from saereg_plugin.errors import InputError, suggest

EVAL = "sae_probes"

DEFAULT_DATASETS = (
    "5_hist_fig_ismale",
    "22_headline_isobama",
    "87_glue_cola",
    "92_glue_sst2",
    "96_spam_is",
    "105_click_bait",
    "119_us_state_TX",
    "125_world_country_Italy",
    "126_art_type_book",
    "155_athlete_sport_basketball",
)
"""Ten sets of short texts on unlike subjects, 232,000 SmolLM2 tokens; all 113 have 33 million."""


@dataclass(frozen=True)
class SaeProbesOptions:
    """Settings, ``RunContext.options["sae_probes"]``."""

    datasets: str | Sequence[str] = DEFAULT_DATASETS
    """Names of sets, or "all" for the 113 of published runs (hours on a CPU)."""

    ks: Sequence[int] = (1, 2, 5)
    """Numbers of latents a probe may use, of 1, 2, 5, 10, 20, 50 and 100; upstream's default."""

    reg_type: str = "l1"
    """Penalty of the probes on latents, "l1" (upstream's default) or "l2"."""

    setting: str = "normal"
    """Balance of the classes. SAEBench reads only the results of "normal"."""


def options(context: RunContext) -> SaeProbesOptions:
    """
    Return the recipe's settings, names of sets resolved.

    Raises:
        InputError: for an unknown name or value.
    """
    given = options_of(EVAL, SaeProbesOptions, context.options.get(EVAL, {}))
    if given.datasets == "all":
        given = dataclasses.replace(given, datasets=tuple(DATASETS))
    if isinstance(given.datasets, str):
        given = dataclasses.replace(given, datasets=(given.datasets,))
    if not isinstance(given.datasets, (list, tuple)):
        raise InputError(
            f"sae_probes option 'datasets' is {given.datasets!r}; expected a list of names."
        )
    for name in given.datasets:
        if name not in DATASETS:
            raise InputError(
                f"Unknown sae_probes set {name!r}. {suggest(name, DATASETS)}"
            )
    if not isinstance(given.ks, (list, tuple)):
        raise InputError(
            f"sae_probes option 'ks' is {given.ks!r}; expected a list such as [1, 2, 5]."
        )
    for kind, values in (("set", given.datasets), ("k", given.ks)):
        if not values or len(set(values)) != len(values):
            raise InputError(
                f"sae_probes was given {list(values)!r}; expected at least one {kind}, each once."
            )
    for k in given.ks:
        if k not in KS:
            raise InputError(
                f"sae_probes cannot report k={k!r}; SAEBench's output has fields for "
                f"{', '.join(map(str, KS))}."
            )
    if given.reg_type not in ("l1", "l2"):
        raise InputError(
            f"sae_probes option 'reg_type' is {given.reg_type!r}; expected 'l1' or 'l2'."
        )
    if given.setting != "normal":
        raise InputError(
            f"sae_probes option 'setting' is {given.setting!r}; expected 'normal': "
            "SAEBench does not collect the results of the others."
        )
    return given


def check(context: RunContext) -> None:
    """
    Refuse what the evaluation cannot work on, before anything is loaded.

    Raises:
        InputError: naming the option, or the SAE.
    """
    largest = max(options(context).ks)
    check_unique_paths(context.subjects)
    for subject in context.subjects:
        cfg = load_sae_config_from_huggingface(subject.release, subject.sae_id)
        metadata: Mapping[str, Any] = cfg.get("metadata", cfg)
        hook = str(metadata.get("hook_name"))
        if not hook.startswith("blocks.") or has_heads(hook):
            raise InputError(
                f"sae_probes cannot read hook {hook!r} of SAE {subject.sae_id!r}; expected one "
                "in a block with one activation a token, such as 'blocks.4.hook_resid_post'."
            )
        if metadata.get("hook_head_index") is not None:
            raise InputError(
                f"SAE {subject.sae_id!r} reads head {metadata['hook_head_index']} of {hook!r}; "
                "sae_probes reads whole activations only."
            )
        if cfg["d_sae"] < largest:
            raise InputError(
                f"SAE {subject.sae_id!r} has {cfg['d_sae']} latents; sae_probes was asked for "
                f"k={largest}. Choose smaller ks."
            )
