"""Sparse probing on the labelled sets that sae-probes ships."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from sae_bench.evals.sparse_probing_sae_probes import main as upstream_main
from sae_bench.evals.sparse_probing_sae_probes.eval_config import (
    SparseProbingSaeProbesEvalConfig,
)
from sae_bench.evals.sparse_probing_sae_probes.eval_output import (
    SparseProbingSaeProbesEvalOutput,
)
from sae_probes import DATASETS
from sae_probes.run_baselines import get_baseline_save_path

from eval_recipes.results.subject import Subject, SubjectFacts
from eval_recipes.running.activation_source import (
    Source,
    model_determinants,
    read_model,
)
from eval_recipes.running.artifacts import ArtifactFolder, artifact_folder
from eval_recipes.running.context import RunContext
from eval_recipes.running.evaluation import Evaluation
from eval_recipes.saebench.sae_probes.data import ensure_activations, link_for_upstream
from eval_recipes.saebench.sae_probes.measure import (
    corrected,
    measure,
    quiet_sklearn,
    require_whole,
)
from eval_recipes.saebench.sae_probes.options import EVAL, SaeProbesOptions
from eval_recipes.saebench.sae_probes.output import CorrectedSaeProbesOutput
from eval_recipes.saebench.upstream import (
    all_patched,
    folded_copy,
    read_upstream,
    upstream,
    without_bar,
)
from saereg_plugin.errors import InputError, suggest

_BASELINE = "logreg"


class SaeProbesEvaluation(Evaluation[SaeProbesOptions]):
    """Sparse probing on the labelled sets that sae-probes ships."""

    name = EVAL
    summary = "sparse probing on sae-probes' sets, with deduplicated scores next to upstream's"
    Options = SaeProbesOptions
    Output = CorrectedSaeProbesOutput
    type_id = "sparse_probing_sae_probes"
    keeps_artifacts = True
    serves = r"blocks\.", "a hook in a block with one activation a token"

    def resolve(
        self,
        context: RunContext,
        options: SaeProbesOptions,
    ) -> SaeProbesOptions:
        """
        Return the settings with the names of sets as a tuple.

        Raises:
            InputError: for an unknown set, or a set or k that is given twice.
        """
        given = options.datasets
        names = tuple(DATASETS) if given == "all" else given
        names = (names,) if isinstance(names, str) else names
        for name in names:
            if name not in DATASETS:
                raise InputError(
                    f"Unknown {EVAL} set {name!r}. {suggest(name, DATASETS)}"
                )
        for kind, values in (("set", names), ("k", options.ks)):
            if len(set(values)) != len(values):
                raise InputError(
                    f"{EVAL} was given {list(values)!r}; expected each {kind} once."
                )
        return dataclasses.replace(options, datasets=names)

    def check_subject(
        self, context: RunContext, facts: SubjectFacts, options: SaeProbesOptions
    ) -> None:
        """Refuse an SAE with too few latents."""
        super().check_subject(context, facts, options)
        facts.require_latents(max(options.ks), eval=EVAL, option="ks")

    def evaluate(
        self, context: RunContext, subject: Subject, options: SaeProbesOptions
    ) -> CorrectedSaeProbesOutput:
        """
        Evaluate one SAE.

        Raises:
            UpstreamError: if upstream failed or left no whole result.
        """
        sae = subject.load(context.device)
        source, model = read_model(context, sae)
        assert not isinstance(options.datasets, str)
        cache, baselines = _folders(context, source)
        # Filled before upstream runs, so that the first SAE sees what later ones see.
        ensure_activations(
            cache,
            model,
            options.datasets,
            source.hook_name,
            memory_gib=context.memory_gib,
        )
        with tempfile.TemporaryDirectory() as folder:
            private = Path(folder, "activations")
            link_for_upstream(
                cache, private, source.model_name, options.datasets, source.hook_name
            )
            config = SparseProbingSaeProbesEvalConfig(
                model_name=source.model_name,
                random_seed=context.seed,
                dataset_names=list(options.datasets),
                reg_type=options.reg_type,
                # SAEBench collects the results of no other balance of classes
                setting="normal",
                ks=list(options.ks),
                # Results of an SAE are never kept: upstream knows them by names only.
                results_path=str(Path(folder) / "results"),
                model_cache_path=str(private),
                baseline_method=_BASELINE,
            )
            with (
                upstream(self.name, subject, sae, model, seed=context.seed),
                _without_bars(),
                quiet_sklearn(),
            ):
                _run_upstream(
                    config, subject, source, context.device, folder, baselines
                )
            measured = read_upstream(
                Path(folder) / "out",
                SparseProbingSaeProbesEvalOutput,
                eval=self.name,
                subject=subject,
            )
        require_whole(measured, subject, options)
        ours = measure(folded_copy(sae), options, cache, baselines, seed=context.seed)
        return corrected(measured, ours, subject, sae)


def _folders(
    context: RunContext, source: Source
) -> tuple[ArtifactFolder, ArtifactFolder]:
    """Return the folders of the activations and of what no SAE changes in the scores."""
    determinants = {
        **model_determinants(context, source),
        "hook": source.hook_name,
        "dtype": context.dtype,
        "device": context.device,
        # Decides which texts share a pass, and so the last bits.
        "memory_gib": context.memory_gib,
    }
    parts = {"what": "activations"}, {"what": "baselines", "seed": context.seed}
    activations, baselines = (
        artifact_folder(context.artifacts, EVAL, {**part, **determinants})
        for part in parts
    )
    return activations, baselines


def _run_upstream(
    config: SparseProbingSaeProbesEvalConfig,
    subject: Subject,
    source: Source,
    device: str,
    folder: str,
    baselines: ArtifactFolder,
) -> None:
    """Run upstream's eval into ``folder/out``, baselines taken from and kept in a folder."""
    kept = {
        get_baseline_save_path(
            dataset, source.hook_name, _BASELINE, config.model_name, config.results_path
        ): f"{dataset}.json"
        for dataset in config.dataset_names
    }
    missing: dict[Path, str] = {}
    for here, name in kept.items():
        there = baselines.read(name)
        if there is None:
            missing[here] = name
        else:
            here.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(there, here)
    # Not the release's name: it may be a path, which upstream would write to.
    selected: Any = [("release", subject.sae_id)]
    upstream_main.run_eval(config, selected, device, f"{folder}/out")
    for here, name in missing.items():
        with baselines.write(name) as temporary:
            shutil.copyfile(here, temporary)


@contextmanager
def _without_bars() -> Iterator[None]:
    """Take away upstream's progress bars, which count to one for every SAE and set."""
    # By its full name: the package has a function that is called like its module.
    names = ("sae_probes.run_sae_evals", "sae_probes.run_baselines")
    modules = (upstream_main, *map(import_module, names))
    with all_patched([(module, "tqdm", without_bar) for module in modules]):
        yield
