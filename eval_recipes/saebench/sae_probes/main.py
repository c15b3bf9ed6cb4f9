"""Recipe ``sae_probes``: sparse probing on the labelled sets that sae-probes ships."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
from sae_probes.run_baselines import get_baseline_save_path

from eval_recipes.results.files import (
    result_path,
    write_result,
)
from eval_recipes.results.subject import Failure, Subject
from eval_recipes.running.activation_source import Source, check_hook, source_of
from eval_recipes.running.artifacts import ArtifactFolder, artifact_folder
from eval_recipes.running.context import RunContext
from eval_recipes.running.each_subject import each_subject
from eval_recipes.saebench.sae_probes.data import ensure_activations, link_for_upstream
from eval_recipes.saebench.sae_probes.measure import (
    corrected,
    measure,
    quiet_sklearn,
    require_whole,
)
from eval_recipes.saebench.sae_probes.options import (
    EVAL,
    SaeProbesOptions,
    check,
    options,
)
from eval_recipes.saebench.upstream import (
    folded_copy,
    patched,
    read_upstream,
    upstream,
    without_bar,
)

_BASELINE = "logreg"


def determinants(context: RunContext) -> dict[str, Any]:
    """Return the resolved options, which decide a result: naming a default changes nothing."""
    return dataclasses.asdict(options(context))


def run(context: RunContext) -> list[Failure]:
    """
    Evaluate every subject and write its result file; return those that failed.

    Raises:
        InputError: for options nothing could run with.
    """
    check(context)
    chosen = options(context)
    return each_subject(
        EVAL, context, lambda subject: evaluate(context, subject, chosen)
    )


def evaluate(context: RunContext, subject: Subject, chosen: SaeProbesOptions) -> Path:
    """
    Evaluate one SAE and return the path of its result.

    Raises:
        UpstreamError: if upstream failed or left no whole result.
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
    cache, baselines = _folders(context, source)
    # Filled before upstream runs, so that the first SAE sees what later ones see.
    ensure_activations(
        cache,
        model,
        chosen.datasets,
        source.hook_name,
        memory_gib=context.memory_gib,
    )
    with tempfile.TemporaryDirectory() as folder:
        private = Path(folder, "activations")
        link_for_upstream(
            cache, private, source.model_name, chosen.datasets, source.hook_name
        )
        config = SparseProbingSaeProbesEvalConfig(
            model_name=source.model_name,
            random_seed=context.seed,
            dataset_names=list(chosen.datasets),
            reg_type=chosen.reg_type,
            setting=chosen.setting,
            ks=list(chosen.ks),
            # Results of an SAE are never kept: upstream knows them by names only.
            results_path=str(Path(folder) / "results"),
            model_cache_path=str(private),
            baseline_method=_BASELINE,
        )
        with (
            upstream(EVAL, subject, sae, model, seed=context.seed),
            _without_bars(),
            quiet_sklearn(),
        ):
            _run_upstream(config, subject, source, context.device, folder, baselines)
        measured = read_upstream(
            Path(folder) / "out",
            SparseProbingSaeProbesEvalOutput,
            eval=EVAL,
            subject=subject,
        )
    require_whole(measured, subject, chosen)
    ours = measure(
        folded_copy(sae),
        chosen.datasets,
        ks=chosen.ks,
        penalty=chosen.reg_type,
        seed=context.seed,
        cache=cache,
        baselines=baselines,
    )
    path = result_path(context.out, EVAL, subject.release, subject.sae_id)
    return write_result(path, corrected(measured, ours, subject, sae))


def _folders(
    context: RunContext, source: Source
) -> tuple[ArtifactFolder, ArtifactFolder]:
    """Return the folders of the activations and of what no SAE changes in the scores."""
    determinants = {
        "model": source.model_name,
        "model_identity": context.models.identity(source.model_name),
        "model_kwargs": source.model_kwargs,
        "hook": source.hook_name,
        "dtype": context.dtype,
        "device": context.device,
        # Decides which texts share a pass, and so the last bits.
        "memory_gib": context.memory_gib,
    }
    return (
        artifact_folder(
            context.artifacts, EVAL, {"what": "activations", **determinants}
        ),
        artifact_folder(
            context.artifacts,
            EVAL,
            {"what": "baselines", "seed": context.seed, **determinants},
        ),
    )


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
    with ExitStack() as stack:
        # By its full name: the package has a function that is called like its module.
        modules = ("sae_probes.run_sae_evals", "sae_probes.run_baselines")
        for module in (upstream_main, *map(import_module, modules)):
            stack.enter_context(patched(module, "tqdm", without_bar))
        yield
