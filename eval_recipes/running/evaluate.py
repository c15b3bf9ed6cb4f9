"""Evaluation of a release in one call, for Python and notebooks."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval_recipes.results.subject import Subject, SubjectFacts
from eval_recipes.running.context import ModelCache, RunContext, resolve_dtype
from eval_recipes.running.corpus import choose_corpus, read_other_sources
from eval_recipes.running.run import Outcome, run_evals, subjects_of
from saereg_plugin.errors import InputError, suggest
from saereg_plugin.machine import AUTO, resolve_device
from saereg_plugin.releases.release import Release
from saereg_plugin.sources.models import HOOKED, LanguageModel, TransformerBridge

_log = logging.getLogger(__name__)

DEFAULT_EVALS = ("core", "cross_seed")
OTHER_EVALS = ("cross_seed", "examples")
"""By default for SAEs that read no language model."""
_OWN = ("subjects", "out", "models", "sources")
"""Fields of the context that have arguments of their own."""
_PATHS = ("artifacts",)


def evaluate(
    release: str | Path | Release,
    evals: str | Iterable[str] | None = None,
    out: str | Path = "eval_results",
    *,
    sae_ids: Iterable[str] = (),
    group_by: str | None = None,
    fresh: bool = False,
    model: LanguageModel | TransformerBridge | None = None,
    model_class: str = HOOKED,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    progress: Callable[[str], None] | None = _log.warning,
    **context: Any,
) -> Outcome:
    """
    Evaluate the SAEs of a release; write one result per SAE and evaluation into ``out``.

    Results that are current are kept. A failed evaluation is in ``failures`` of the outcome,
    and the others run. Example::

        import eval_recipes

        outcome = eval_recipes.evaluate(
            "my-release",
            evals=["core", "cross_seed"],
            out="results",
            heldout_tokens=32_768,
            options={"cross_seed": {"n_resamples": 200}},
        )
        outcome.frame  # one row per SAE and metric
        eval_recipes.plot_pareto("results")

    Args:
        release: an opened release; or a release folder, a name of SAELens' public table, or
            ``owner/repository[@revision]``.
        evals: names of evaluations, or one text with commas; by default core and cross_seed, or
            cross_seed and examples for SAEs that read no language model.
        out: folder of the results.
        sae_ids: ids or shell patterns of the SAEs; all by default.
        group_by: groups and seeds by expression or YAML file (``open_release``).
        fresh: make every result again.
        model: the SAEs' language model in memory, taken as it is, whatever loader arguments the
            SAEs name; by default it is loaded.
        model_class: "HookedTransformer", or "TransformerBridge", which computes on the
            modules of transformers: the class of the model that is loaded.
        trust_remote_code: load the model as the release says, code of the release included.
        allow_pickle: read SAEs of formats that are pickle files (``open_release``).
        progress: gets a line on the text that is read and one per evaluation about what is
            kept; None says nothing.
        context: fields of ``RunContext`` by name, such as ``device``, ``dtype``, ``seed``,
            ``corpus``, ``data``, ``heldout_tokens`` or ``options``. Device, data type and
            corpus are those of ``saereg-bench run`` if they are left out: of this machine,
            and the SAEs' own data set where it can be read.

    Raises:
        InputError: before anything is computed, if something cannot work.
        WriteError: if the disk is full; results that were written stay.
    """
    settings: dict[str, Any] = _settings(context)
    subjects = subjects_of(
        release, patterns=sae_ids, group_by=group_by, allow_pickle=allow_pickle
    )
    cache = ModelCache(trust_remote_code=trust_remote_code, model_class=model_class)
    settings["device"] = resolve_device(settings.get("device", AUTO))
    settings["dtype"] = resolve_dtype(settings.get("dtype", AUTO), settings["device"])
    if model is not None:
        settings |= _numbers_of(model, context)
        name = _only_model(subjects)
        cache.hold(model, name, dtype=settings["dtype"], device=settings["device"])
    corpus = settings.pop("corpus", None)
    run = RunContext(subjects=subjects, out=Path(out), models=cache, **settings)
    if evals is None:
        evals = default_evals(subjects)
    names = evals.split(",") if isinstance(evals, str) else evals
    names = [one.strip() for one in names]
    text = choose_corpus(names, subjects, corpus, heldout_tokens=run.heldout_tokens)
    run.corpus = text.name
    if progress is not None and text.said:
        progress(text.said)
    return run_evals(names, run, resume=not fresh, progress=progress)


def default_evals(subjects: Iterable[Subject]) -> tuple[str, ...]:
    """Return the names of the evaluations of a run that names none."""
    return OTHER_EVALS if read_other_sources(subjects) else DEFAULT_EVALS


def _settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields of the context; refuse unknown names."""
    fields = [f.name for f in dataclasses.fields(RunContext) if f.init]
    known = [name for name in fields if name not in _OWN]
    for name in given:
        if name not in known:
            raise InputError(
                f"evaluate has no setting {name!r}. {suggest(name, known)} Settings of one "
                "evaluation go into options={'core': {...}}."
            )
    return {k: Path(v) if k in _PATHS else v for k, v in given.items()}


def _numbers_of(model: Any, asked: Mapping[str, Any]) -> dict[str, str]:
    """Return data type and device of a model in memory; refuse others that were asked for."""
    weight = next(iter(model.parameters()))
    found = {
        "dtype": str(weight.dtype).removeprefix("torch."),
        "device": str(weight.device),
    }
    for name, value in found.items():
        wanted = str(asked.get(name, AUTO)).removeprefix("torch.")
        # "cuda" is cuda:0
        if wanted not in (AUTO, value, value.removesuffix(":0")):
            raise InputError(
                f"The model that was given has {name} {value}, and {name}={wanted!r} was asked "
                f"for. Give a model of that {name}, or leave one of the two out."
            )
    return found


def _only_model(subjects: Sequence[Subject]) -> str:
    """Return the name of the model that the SAEs read; refuse several."""
    names = {SubjectFacts.read(subject).model_name for subject in subjects}
    if len(names) != 1 or None in names:
        listed = ", ".join(sorted(map(repr, names)))
        raise InputError(
            f"One model was given, but the SAEs read {listed}; expected SAEs of one model. "
            "Choose some with sae_ids, or leave the model out."
        )
    return str(names.pop())
