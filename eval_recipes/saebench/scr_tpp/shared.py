"""The run of SCR and TPP: upstream's, with our data and cache."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from sae_bench.evals.scr_and_tpp import dataset_creation
from sae_bench.evals.scr_and_tpp import main as upstream_main
from sae_bench.evals.scr_and_tpp.eval_config import ScrAndTppEvalConfig
from sae_bench.sae_bench_utils import dataset_info
from sae_lens import SAE

from eval_recipes.labelled.crossed import crossed_sets, crossed_train_test_data
from eval_recipes.labelled.probing import probing_sets
from eval_recipes.results.files import (
    base_fields,
    result_path,
    unstructured,
    write_result,
)
from eval_recipes.results.subject import Failure, Subject
from eval_recipes.running.activation_source import check_hook, source_of
from eval_recipes.running.artifacts import ArtifactFolder
from eval_recipes.running.context import RunContext
from eval_recipes.running.each_subject import each_subject
from eval_recipes.saebench.scr_tpp.ablation_step import AblationStep, Sampled, averaged
from eval_recipes.saebench.scr_tpp.cache import in_upstreams_layout, warmed
from eval_recipes.saebench.scr_tpp.check import check
from eval_recipes.saebench.scr_tpp.spec import Kind, ScrAndTppOptions, eval_config
from eval_recipes.saebench.upstream import (
    patched,
    read_upstream,
    seed_everything,
    upstream,
    without_bar,
)

# Copies of a batch of latents that upstream holds at once: encoded, masked, ablated.
_COPIES = 3
# Share of the memory bound that a batch of latents may take; the rest is activations'.
_BATCH_SHARE = 0.25


def run(context: RunContext, kind: Kind) -> list[Failure]:
    """
    Evaluate every subject and write its result file; return those that failed.

    Raises:
        InputError: for what nothing could run with.
    """
    options = check(context, kind)
    return each_subject(
        kind.eval, context, lambda subject: evaluate(context, kind, options, subject)
    )


def evaluate(
    context: RunContext, kind: Kind, options: ScrAndTppOptions, subject: Subject
) -> Path:
    """
    Evaluate one SAE and return the path of its result.

    Raises:
        UpstreamError: if upstream failed or left no result.
        NonFiniteError: if a metric is NaN or infinite.
    """
    sae = subject.load(context.device)
    source = source_of(sae, context_size=context.context_size)
    model = context.models.get(
        source.model_name,
        dtype=context.dtype,
        device=context.device,
        model_kwargs=source.model_kwargs,
    )
    check_hook(model, source.hook_name)
    batch_size = sae_batch_size(context, options, sae)
    config = eval_config(kind, context, options, source, sae_batch_size=batch_size)
    measured: list[dict[str, Sampled]] = []
    with tempfile.TemporaryDirectory() as folder:
        with (
            upstream(kind.eval, subject, sae, model, seed=context.seed),
            data_sets(context.data),
        ):
            tokenizer: Any = model.tokenizer
            tokenizer.padding_side = tokenizer.truncation_side = "right"
            folders = {
                (name, pair): warmed(kind, context, config, source, model, name, pair)
                for name, pair in kind.runs(config)
            }
            seed_everything(context.seed)
            with (
                patched(upstream_main, "run_eval_single_dataset", _in(folders)),
                patched(
                    upstream_main,
                    "perform_feature_ablations",
                    _measuring(context, kind, options, measured),
                ),
                # Its progress bar counts to one for every SAE.
                patched(upstream_main, "tqdm", without_bar),
            ):
                upstream_main.run_eval(
                    config,
                    [(subject.release, subject.sae_id)],
                    context.device,
                    folder,
                    force_rerun=True,
                    # Each data set's folder is given above; upstream makes this one.
                    artifacts_path=str(Path(folder, "artifacts")),
                )
        result = read_upstream(
            Path(folder), kind.upstream_output, eval=kind.eval, subject=subject
        )
    extra = unstructured(
        subject, data=context.data, **(result.eval_result_unstructured or {})
    )
    extra["saereg"]["data"] = context.data
    fields = {**base_fields(subject, sae), "eval_result_unstructured": extra}
    path = result_path(context.out, kind.eval, subject.release, subject.sae_id)
    return write_result(path, kind.output(result, averaged(measured), fields))


def sae_batch_size(
    context: RunContext, options: ScrAndTppOptions, sae: SAE[Any]
) -> int:
    """Return how many texts an SAE may encode at once within the memory bound."""
    values = options.context_length * int(sae.cfg.d_sae) * _COPIES
    bound = context.memory_gib * 2**30 * _BATCH_SHARE
    return max(1, min(options.sae_batch_size, int(bound / (values * 4))))


@contextmanager
def data_sets(data: str) -> Iterator[None]:
    """Let upstream find the embedded data sets, or with hub data its own alone."""
    # Upstream knows a second attribute for two sets only and looks it up for TPP, too.
    known = dict.fromkeys(dataset_info.chosen_classes_per_dataset, None)
    pairs: dict[str, Any] = {**known, **upstream_main.COLUMN2_VALS_LOOKUP}
    classes = dict(dataset_info.chosen_classes_per_dataset)
    with ExitStack() as stack:
        if data == "embedded":
            classes |= probing_sets()
            pairs |= dict.fromkeys(probing_sets())
            pairs |= {name: item.column2_vals for name, item in crossed_sets().items()}
            stack.enter_context(
                patched(
                    dataset_creation, "get_train_test_data", crossed_train_test_data
                )
            )
        for target, name, value in (
            (upstream_main, "COLUMN2_VALS_LOOKUP", pairs),
            (dataset_info, "chosen_classes_per_dataset", classes),
        ):
            stack.enter_context(patched(target, name, value))
        yield


def _in(folders: dict[Any, ArtifactFolder]) -> Callable[..., Any]:
    """Stand in for ``run_eval_single_dataset`` with each data set's own artefact folder."""
    original = upstream_main.run_eval_single_dataset

    def run_single(
        name: str,
        config: ScrAndTppEvalConfig,
        sae: SAE[Any],
        model: Any,
        layer: int,
        hook_point: str,
        device: str,
        _folder: str,
        save_activations: bool = True,
        column1_vals: Any = None,
    ) -> Any:
        pair = None if column1_vals is None else tuple(column1_vals)
        with in_upstreams_layout(folders[name, pair], name, pair) as private:
            return original(
                name,
                config,
                sae,
                model,
                layer,
                hook_point,
                device,
                str(private),
                save_activations,
                column1_vals,
            )

    return run_single


def _measuring(
    context: RunContext,
    kind: Kind,
    options: ScrAndTppOptions,
    measured: list[dict[str, Sampled]],
) -> Callable[..., Any]:
    """Stand in for ``perform_feature_ablations``: measure what it is given, then run it."""
    original = upstream_main.perform_feature_ablations

    def ablate(
        probes: dict[str, Any],
        sae: SAE[Any],
        batch_size: int,
        acts: dict[str, torch.Tensor],
        effects: dict[str, torch.Tensor],
        n_values: list[int],
        classes: list[str],
        *rest: Any,
    ) -> Any:
        step = AblationStep(
            probes,
            sae,
            acts,
            effects,
            classes=classes,
            n_values=n_values,
            batch_size=batch_size,
        )
        if context.dtype == "float32":
            step.check_linear()
        measured.append(
            kind.measure(
                step,
                resamples=options.n_resamples,
                seed=context.seed * 1000 + len(measured),
            )
        )
        given = (probes, sae, batch_size, acts, effects, n_values, classes, *rest)
        if not options.fast_ablation or context.dtype != "float32":
            return original(*given)
        replaced = "ablated_precomputed_activations"
        with patched(upstream_main, replaced, step.ablated_activations):
            return original(*given)

    return ablate
