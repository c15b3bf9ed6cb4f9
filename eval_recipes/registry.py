"""Every evaluation by name: the one table that command line, documentation and tests read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from saereg_plugin.errors import InputError, suggest

if TYPE_CHECKING:
    from eval_recipes.results.subject import Failure
    from eval_recipes.running.context import RunContext


@dataclass(frozen=True)
class Recipe:
    """
    An evaluation; its module is imported when it is used, since SAEBench takes seconds.

    Attributes:
        name: what the user calls it; the folder of its results.
        summary: one line.
        module: has ``run(context)``, which writes one result file an SAE and returns the
            failures, and the function named ``checker``.
        outputs: classes of its results as "module:Class", by the name of their JSON schema.
        checker: refuses, before anything is loaded, what the evaluation cannot work on.
        over_groups: whether the result of one SAE depends on the others of the run.
        reads_model: whether it runs the language model.
        reads_text: whether it reads held-out text of the run's corpus.
        type_id: ``eval_type_id`` of its results, where upstream has another name.
        bytes_per_latent: what a result holds for each latent at the least; 0 if its size does
            not grow with the SAE.
        keeps_artifacts: whether it keeps artefacts between runs.
    """

    name: str
    summary: str
    module: str
    outputs: Mapping[str, str] = field(default_factory=dict)
    checker: str = "check"
    over_groups: bool = False
    reads_model: bool = True
    reads_text: bool = False
    type_id: str = ""
    bytes_per_latent: int = 0
    keeps_artifacts: bool = False

    @property
    def eval_type_id(self) -> str:
        """What its results say they are."""
        return self.type_id or self.name

    @property
    def side_files(self) -> tuple[str, ...]:
        """Endings of the files that it writes next to a result, as its module says."""
        return getattr(import_module(self.module), "SIDE_FILES", ())

    @property
    def folder_files(self) -> tuple[str, ...]:
        """Names of the files that it writes over all its results, as its module says."""
        return getattr(import_module(self.module), "FOLDER_FILES", ())

    def schemas(self) -> dict[Path, type[Any]]:
        """Return the class of its results by the file that holds the class' JSON schema."""
        folder = Path(str(import_module(self.module).__file__)).parent
        found: dict[Path, type[Any]] = {}
        for name, place in self.outputs.items():
            module, _, cls = place.partition(":")
            path = folder / f"eval_output_schema_{name}.json"
            found[path] = getattr(import_module(module), cls)
        return found

    def check(self, context: RunContext) -> None:
        """
        Check options and subjects; load nothing.

        Raises:
            InputError: if the evaluation cannot work on them.
        """
        self._function(self.checker)(context)

    def run(self, context: RunContext) -> list[Failure]:
        """Evaluate the subjects and return those that failed."""
        return self._function("run")(context)

    def determinants(self, context: RunContext) -> Any:
        """
        Return what decides its results besides what all evaluations share.

        The module's own ``determinants``, if it has one, gives the resolved options that do.
        """
        module = import_module(self.module)
        own = getattr(module, "determinants", None)
        return own(context) if own else context.options.get(self.name, {})

    def check_server(self, context: RunContext) -> None:
        """
        Ask the server that the evaluation needs, if it needs any, whether it will answer.

        Called only where something is left to evaluate.

        Raises:
            InputError: if it will not: nobody answers, or key or model are refused.
        """
        own = getattr(import_module(self.module), "check_server", None)
        if own is not None:
            own(context)

    def _function(self, name: str) -> Any:
        return getattr(import_module(self.module), name)


_SAEBENCH = "eval_recipes.saebench"

_ENTRIES = (
    Recipe(
        "core",
        "SAEBench's core metrics, with corrected explained variance beside them",
        f"{_SAEBENCH}.core.main",
        {"core": f"{_SAEBENCH}.core.output:CorrectedCoreOutput"},
        checker="core_options",
        reads_text=True,
        bytes_per_latent=200,
    ),
    Recipe(
        "cross_seed",
        "how alike SAEs are that differ only in their seed, and groups compared",
        "eval_recipes.cross_seed.main",
        {"cross_seed": "eval_recipes.cross_seed.output:CrossSeedEvalOutput"},
        over_groups=True,
        reads_text=True,
        bytes_per_latent=10,
    ),
    Recipe(
        "sparse_probing",
        "how well labelled concepts can be read off few latents",
        f"{_SAEBENCH}.sparse_probing.main",
        {"sparse_probing": f"{_SAEBENCH}.sparse_probing.output:CorrectedProbingOutput"},
        keeps_artifacts=True,
    ),
    Recipe(
        "sae_probes",
        "sparse probing on sae-probes' sets, with deduplicated scores beside upstream's",
        f"{_SAEBENCH}.sae_probes.main",
        {"sae_probes": f"{_SAEBENCH}.sae_probes.output:CorrectedSaeProbesOutput"},
        type_id="sparse_probing_sae_probes",
        keeps_artifacts=True,
    ),
    Recipe(
        "scr",
        "whether ablating few latents removes a spurious correlation from a probe",
        f"{_SAEBENCH}.scr_tpp.scr",
        {"scr": f"{_SAEBENCH}.scr_tpp.scr:MaskedScrOutput"},
        keeps_artifacts=True,
    ),
    Recipe(
        "tpp",
        "whether ablating few latents disturbs one class's probe and no other's",
        f"{_SAEBENCH}.scr_tpp.tpp",
        {"tpp": f"{_SAEBENCH}.scr_tpp.tpp:MaskedTppOutput"},
        keeps_artifacts=True,
    ),
    Recipe(
        "absorption",
        "how often a latent for a word's first letter is absorbed by more special ones",
        f"{_SAEBENCH}.absorption.main",
        {"absorption": f"{_SAEBENCH}.absorption.output:CorrectedAbsorptionOutput"},
        type_id="absorption_first_letter",
        keeps_artifacts=True,
    ),
    Recipe(
        "autointerp",
        "how well explanations of latents predict where they fire, judged by an LLM or by tokens",
        f"{_SAEBENCH}.autointerp.main",
        {
            "autointerp": f"{_SAEBENCH}.autointerp.output:JudgedOutput",
            "autointerp_tokens": f"{_SAEBENCH}.autointerp.output:TokenOutput",
        },
        reads_text=True,
        keeps_artifacts=True,
    ),
    Recipe(
        "meta_structure",
        "how well a smaller SAE compresses the decoder, beside a random decoder",
        f"{_SAEBENCH}.meta_structure.main",
        {
            "meta_structure": f"{_SAEBENCH}.meta_structure.output:CorrectedMetaStructureOutput"
        },
        reads_model=False,
        type_id="meta_structure_decoder_variance",
        keeps_artifacts=True,
    ),
    Recipe(
        "vocabulary",
        "how near decoder rows lie to the model's token embeddings, beside random rows",
        "eval_recipes.vocabulary.main",
        {"vocabulary": "eval_recipes.vocabulary.output:VocabularyEvalOutput"},
        reads_model=False,
        bytes_per_latent=10,
    ),
    Recipe(
        "steering",
        "whether adding a latent's direction does what its explanation says",
        "eval_recipes.steering.main",
        {"steering": "eval_recipes.steering.results.output:SteeringEvalOutput"},
        reads_text=True,
        keeps_artifacts=True,
    ),
)

RECIPES = MappingProxyType({recipe.name: recipe for recipe in _ENTRIES})


def recipes(names: Iterable[str]) -> list[Recipe]:
    """
    Return recipes by name, in the order given, each once.

    Raises:
        InputError: for an unknown name, with the nearest one, and for one of SAEBench's
            that is unavailable, with the reason.
    """
    chosen: list[Recipe] = []
    for name in dict.fromkeys(names):
        if name in UNAVAILABLE and name not in RECIPES:
            raise InputError(
                f"Evaluation {name!r} is unavailable: {UNAVAILABLE[name]}. "
                f"Available: {', '.join(RECIPES)}."
            )
        if name not in RECIPES:
            raise InputError(f"Unknown evaluation {name!r}. {suggest(name, RECIPES)}")
        chosen.append(RECIPES[name])
    if not chosen:
        raise InputError(f"No evaluation was named. Known: {', '.join(RECIPES)}.")
    return chosen


UNAVAILABLE = MappingProxyType(
    {
        "ravel": (
            "SAEBench 0.6 downloads its prompts with an argument that huggingface-hub has "
            "dropped (local_dir_use_symlinks), and with transformers 5, whose decoder layers "
            "return a tensor, it takes the first row of a batch for the whole of it and its "
            "interventions stop with 'Unexpected output shape'; it also knows only "
            "gemma-2-2b and pythia-160m-deduped"
        ),
        "unlearning": (
            "SAEBench 0.6 has prompts for gemma-2 instruct models only, and reads gated data "
            "(WMDP's bio-forget-corpus) at a path relative to the working folder, "
            "./sae_bench/evals/unlearning/data/bio-forget-corpus.jsonl"
        ),
        "mdl": (
            "SAEBench 0.6 imports loguru, which it does not declare, reads a global 'config' "
            "that exists only when its file is run as a script, needs CUDA (.cuda()), and "
            "writes no result in SAEBench's format"
        ),
    }
)
"""Name -> reason; measured with sae-bench 0.6.0, transformers 5.23, huggingface-hub 2.4."""
