"""The run of SCR and TPP: upstream's, with our data and cache."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from sae_bench.evals.scr_and_tpp import dataset_creation
from sae_bench.evals.scr_and_tpp import main as upstream_main
from sae_bench.evals.scr_and_tpp.eval_config import ScrAndTppEvalConfig
from sae_bench.sae_bench_utils import dataset_info
from sae_lens import SAE

from eval_recipes.labelled.crossed import crossed_sets, crossed_train_test_data
from eval_recipes.labelled.probing import probing_sets
from eval_recipes.results.files import base_fields, unstructured
from eval_recipes.results.subject import Subject, SubjectFacts
from eval_recipes.running.activation_source import Source, read_model
from eval_recipes.running.artifacts import ArtifactFolder
from eval_recipes.running.context import RunContext
from eval_recipes.running.evaluation import Evaluation, Output
from eval_recipes.saebench.scr_tpp.ablation_step import (
    AblationStep,
    Sampled,
    averaged,
    flat,
)
from eval_recipes.saebench.scr_tpp.cache import Pair, in_upstreams_layout, warmed
from eval_recipes.saebench.scr_tpp.options import DEFAULT_HUB, SIZES, ScrAndTppOptions
from eval_recipes.saebench.upstream import (
    all_patched,
    patched,
    read_upstream,
    require_dataset,
    seed_everything,
    upstream,
    upstream_model_name,
    without_bar,
)
from saereg_plugin.errors import InputError, suggest
from saereg_plugin.machine import torch_dtype

# Copies of a batch of latents that upstream holds at once: encoded, masked, ablated.
_COPIES = 3
# Share of the memory bound that a batch of latents may take; the rest is activations'.
_BATCH_SHARE = 0.25


Runs = list[tuple[str, Pair | None]]
"""Data sets, for SCR with a pair of values of the attribute to keep, in upstream's order."""


class ScrOrTpp(Evaluation[ScrAndTppOptions]):
    """SCR and TPP; a subclass says in what they differ."""

    Options = ScrAndTppOptions
    keeps_artifacts = True
    context_option = "context_length"
    # upstream needs one vector a token, and the block's number to stop the model there
    serves = r"blocks\.\d+\.", "a hook of a block with one vector a token"
    upstream_output: ClassVar[type[Any]]
    categories: ClassVar[type[Any]]
    """Class of the metrics: upstream's, and the masked ones."""
    masked: ClassVar[type[Any]]
    """Class of the masked metrics."""
    check_sizes: ClassVar[Callable[..., None]]
    """Refuses train and test sizes that an embedded set cannot serve."""
    measure: ClassVar[Callable[..., dict[str, Sampled]]]
    """Returns the masked figures of one data set and pair."""

    def embedded_sets(self) -> tuple[str, ...]:
        """Return the names of the embedded data sets."""
        raise NotImplementedError

    def default_embedded(self) -> tuple[str, ...]:
        """Return the embedded data sets that are used where none is named."""
        return self.embedded_sets()

    def hub_sets(self) -> Mapping[str, str]:
        """Return upstream's names of data sets, and the hub repository of each."""
        raise NotImplementedError

    def texts(self, name: str, size: int) -> int:
        """Return how many texts of a data set are in memory for a train or test size."""
        raise NotImplementedError

    def runs(self, config: ScrAndTppEvalConfig) -> Runs:
        """Return the data sets and pairs in upstream's order."""
        raise NotImplementedError

    def resolve(
        self, context: RunContext, options: ScrAndTppOptions
    ) -> ScrAndTppOptions:
        """
        Fill in the sets and sizes that the run's data decide.

        Raises:
            InputError: for an unknown set, a set given twice, or sizes it cannot serve.
        """
        embedded = context.data == "embedded"
        known = self.embedded_sets() if embedded else self.hub_sets()
        default = self.default_embedded() if embedded else DEFAULT_HUB
        names = options.dataset_names or default
        n_train, n_test = SIZES[context.data]
        chosen = dataclasses.replace(
            options,
            dataset_names=names,
            train_set_size=options.train_set_size or n_train,
            test_set_size=options.test_set_size or n_test,
            n_values=tuple(sorted(set(options.n_values))),
        )
        for name in names:
            if name not in known:
                raise InputError(
                    f"Unknown {self.name} data set {name!r} for data {context.data!r}. "
                    f"{suggest(name, known)}"
                )
            if embedded:
                self.check_sizes(
                    name, chosen.train_set_size or 0, chosen.test_set_size or 0
                )
        if len(set(names)) < len(names):
            raise InputError(f"{self.name} option 'dataset_names' names a set twice.")
        return chosen

    def check(self, context: RunContext, options: ScrAndTppOptions) -> None:
        """Refuse SAEs that cannot be served, and data sets that cannot be had."""
        super().check(context, options)
        if context.data == "hub":
            repositories = self.hub_sets()
            for name in {repositories[name] for name in options.dataset_names}:
                require_dataset(name)

    def check_subject(
        self, context: RunContext, facts: SubjectFacts, options: ScrAndTppOptions
    ) -> None:
        """Refuse an SAE whose input is scaled, with too few latents, or too large."""
        super().check_subject(context, facts, options)
        if facts.normalize_activations == "constant_norm_rescale":
            raise InputError(
                f"SAE {facts.sae_id!r} divides by the norm of its input, which is 0 at the padded "
                f"positions that upstream hands it; {self.name} cannot evaluate it. Leave it out."
            )
        largest = max(options.n_values)
        facts.require_latents(largest, eval=self.name, option="n_values")
        size = (options.train_set_size or 0), (options.test_set_size or 0)
        texts = max(
            self.texts(name, size[0]) + self.texts(name, size[1])
            for name in options.dataset_names
        )
        values = texts * options.context_length * facts.d_in
        gib = values * torch_dtype(context.dtype).itemsize / 2**30
        if gib > context.memory_gib:
            raise InputError(
                f"{self.name} would hold {gib:.1f} GiB of activations ({texts} texts of "
                f"{options.context_length} tokens) and may hold {context.memory_gib:g}. Allow more "
                "memory, or choose a smaller train_set_size, test_set_size or context_length."
            )

    def evaluate(
        self, context: RunContext, subject: Subject, options: ScrAndTppOptions
    ) -> Output:
        """
        Evaluate one SAE.

        Raises:
            UpstreamError: if upstream failed or left no result.
        """
        sae = subject.load(context.device)
        source, model = read_model(context, sae)
        batch_size = sae_batch_size(context, options, sae)
        config = eval_config(
            self.name, context, options, source, sae_batch_size=batch_size
        )
        measured: list[dict[str, Sampled]] = []
        with tempfile.TemporaryDirectory() as folder:
            with (
                upstream(self.name, subject, sae, model, seed=context.seed),
                data_sets(context.data),
            ):
                tokenizer: Any = model.tokenizer
                tokenizer.padding_side = tokenizer.truncation_side = "right"
                folders = {
                    (name, pair): warmed(
                        self.name, context, config, source, model, name, pair
                    )
                    for name, pair in self.runs(config)
                }
                seed_everything(context.seed)
                measuring = _measuring(context, self.measure, options, measured)
                with (
                    patched(upstream_main, "run_eval_single_dataset", _in(folders)),
                    patched(upstream_main, "perform_feature_ablations", measuring),
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
                Path(folder), self.upstream_output, eval=self.name, subject=subject
            )
        extra = unstructured(
            subject, data=context.data, **(result.eval_result_unstructured or {})
        )
        extra["saereg"]["data"] = context.data
        metrics = {
            f"{self.name}_metrics": getattr(
                result.eval_result_metrics, f"{self.name}_metrics"
            )
        }
        return self.Output(
            **base_fields(subject, sae),
            eval_config=result.eval_config,
            eval_result_metrics=self.categories(
                **metrics, masked=self.masked(**flat(averaged(measured)))
            ),
            eval_result_details=result.eval_result_details,
            eval_result_unstructured=extra,
        )


def eval_config(
    eval: str,
    context: RunContext,
    options: ScrAndTppOptions,
    source: Source,
    *,
    sae_batch_size: int,
) -> ScrAndTppEvalConfig:
    """Return upstream's configuration; ``options`` must be checked."""
    config = ScrAndTppEvalConfig(
        random_seed=context.seed,
        dataset_names=list(options.dataset_names),
        perform_scr=eval == "scr",
        train_set_size=options.train_set_size or 0,
        test_set_size=options.test_set_size or 0,
        context_length=options.context_length,
        probe_epochs=options.probe_epochs,
        # As published: the probe is never stopped early.
        early_stopping_patience=options.probe_epochs,
        sae_batch_size=sae_batch_size,
        llm_batch_size=context.batch_size_prompts,
        llm_dtype=context.dtype,
        model_name=upstream_model_name(source.model_name),
        n_values=list(options.n_values),
    )
    if context.data == "embedded":
        config.column1_vals_lookup = embedded_pairs()
    return config


def embedded_pairs() -> dict[str, list[Pair]]:
    """Return what upstream calls ``column1_vals_lookup``, for the embedded crossed sets."""
    return {name: [crossed.column1_vals] for name, crossed in crossed_sets().items()}


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
    # Upstream knows a second attribute for two sets only and also looks it up for TPP.
    known = dict.fromkeys(dataset_info.chosen_classes_per_dataset, None)
    pairs: dict[str, Any] = {**known, **upstream_main.COLUMN2_VALS_LOOKUP}
    classes = dict(dataset_info.chosen_classes_per_dataset)
    patches: list[tuple[Any, str, Any]] = [
        (upstream_main, "COLUMN2_VALS_LOOKUP", pairs),
        (dataset_info, "chosen_classes_per_dataset", classes),
    ]
    if data == "embedded":
        classes |= probing_sets()
        pairs |= dict.fromkeys(probing_sets())
        pairs |= {name: item.column2_vals for name, item in crossed_sets().items()}
        patches.append(
            (dataset_creation, "get_train_test_data", crossed_train_test_data)
        )
    with all_patched(patches):
        yield


def _in(folders: dict[Any, ArtifactFolder]) -> Callable[..., Any]:
    """Stand in for ``run_eval_single_dataset`` with each data set's own artefact folder."""
    original: Any = upstream_main.run_eval_single_dataset

    def run_single(name: str, *given: Any) -> Any:
        # config, SAE, model, layer, hook, device; upstream's folder; what to keep, SCR's pair
        pair = tuple(given[8]) if len(given) > 8 else None
        with in_upstreams_layout(folders[name, pair], name, pair) as private:
            return original(name, *given[:6], str(private), *given[7:])

    return run_single


def _measuring(
    context: RunContext,
    measure: Callable[..., dict[str, Sampled]],
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
            measure(
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
