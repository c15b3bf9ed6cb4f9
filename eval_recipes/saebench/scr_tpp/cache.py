"""Stored activations and probes of SCR and TPP."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from sae_bench.evals.scr_and_tpp import main as upstream_main
from sae_bench.evals.scr_and_tpp.eval_config import ScrAndTppEvalConfig
from sae_bench.evals.sparse_probing.probe_training import Probe
from safetensors import safe_open

from eval_recipes.labelled.source import LAYOUT
from eval_recipes.running.activation_source import Source, model_determinants
from eval_recipes.running.artifacts import ArtifactFolder, artifact_folder
from eval_recipes.running.context import RunContext
from eval_recipes.saebench.upstream import patched, seed_everything
from saereg_plugin.sources.models import LanguageModel

Pair = tuple[str, str]
"""Values of the attribute to keep, in upstream's order."""

ACTIVATIONS = "activations.pt"
PROBES = "probes.safetensors"


def warmed(
    eval: str,
    context: RunContext,
    config: ScrAndTppEvalConfig,
    source: Source,
    model: LanguageModel,
    name: str,
    pair: Pair | None,
) -> ArtifactFolder:
    """
    Return the folder of one data set's activations and probes; fill it if necessary.

    Upstream makes them while it scores the first SAE, so that random states depend on the
    order of SAEs. Here it makes the files of each set from the seed alone, without an SAE.
    """
    folder = artifact_folder(
        context.artifacts,
        eval,
        determinants(context, config, source, name, pair),
    )
    with folder.locked():
        if None not in (folder.read(ACTIVATIONS), folder.read(PROBES)):
            return folder
        with (
            folder.scratch() as scratch,
            patched(upstream_main, "pickle", Probes),
            patched(upstream_main, "get_all_node_effects_for_one_sae", _nothing),
            patched(upstream_main, "perform_feature_ablations", _nothing),
        ):
            seed_everything(config.random_seed)
            upstream_main.run_eval_single_dataset(
                name,
                config,
                None,  # pyright: ignore[reportArgumentType]
                model,
                layer_of(source.hook_name),
                source.hook_name,
                context.device,
                str(scratch),
                True,
                pair,
            )
            for kept, made in upstream_names(name, pair).items():
                with folder.write(kept) as temporary:
                    (scratch / made).replace(temporary)
    return folder


def determinants(
    context: RunContext,
    config: ScrAndTppEvalConfig,
    source: Source,
    name: str,
    pair: Pair | None,
) -> dict[str, Any]:
    """Return everything that activations and probes depend on."""
    return {
        "data": context.data,
        "layout": LAYOUT,
        "data_set": name,
        "column1_vals": pair,
        "column2_vals": upstream_main.COLUMN2_VALS_LOOKUP.get(name),
        "train_set_size": config.train_set_size,
        "test_set_size": config.test_set_size,
        "context_length": config.context_length,
        **model_determinants(context, source),
        "hook": source.hook_name,
        "dtype": context.dtype,
        "device": context.device,
        "llm_batch_size": config.llm_batch_size,
        "seed": config.random_seed,
        "probe": {
            "epochs": config.probe_epochs,
            "patience": config.early_stopping_patience,
            "batch_size": config.probe_train_batch_size,
            "lr": config.probe_lr,
            "l1_penalty": config.probe_l1_penalty,
        },
    }


def upstream_names(name: str, pair: Pair | None) -> dict[str, str]:
    """Return what upstream calls each file of a data set."""
    stem = name if pair is None else f"{name}_{pair[0]}_{pair[1]}"
    return {
        ACTIVATIONS: f"{stem}_activations.pt".replace("/", "_"),
        PROBES: f"{stem}_probes.pkl".replace("/", "_"),
    }


@contextmanager
def in_upstreams_layout(
    folder: ArtifactFolder, name: str, pair: Pair | None
) -> Iterator[Path]:
    """Yield a private folder in which upstream finds a data set's files."""
    with tempfile.TemporaryDirectory() as private:
        for kept, called in upstream_names(name, pair).items():
            Path(private, called).symlink_to(folder.require(kept).absolute())
        with patched(upstream_main, "pickle", Probes):
            yield Path(private)


class Probes:
    """
    Replacement of ``pickle`` in upstream's module: probes as safetensors and JSON.

    A pickle in the folder of artefacts could run code.
    """

    @staticmethod
    def dump(found: dict[str, Any], file: BinaryIO) -> None:
        """Write upstream's probes and their accuracies."""
        probes: dict[str, Probe] = found["llm_probes"]
        tensors = {
            f"{number}.{name}": value.detach().cpu().contiguous()
            for number, probe in enumerate(probes.values())
            for name, value in (("weight", probe.net.weight), ("bias", probe.net.bias))
        }
        about = {
            "classes": list(probes),
            "accuracies": found["llm_test_accuracies"],
            "device": str(next(iter(probes.values())).net.weight.device),
        }
        file.write(safetensors.torch.save(tensors, {"probes": json.dumps(about)}))

    @staticmethod
    def load(file: BinaryIO) -> dict[str, Any]:
        """Return probes and accuracies as ``dump`` was given them."""
        with safe_open(file.name, "pt") as stored:
            about = json.loads(stored.metadata()["probes"])
            probes = {
                name: _probe(
                    stored.get_tensor(f"{number}.weight"),
                    stored.get_tensor(f"{number}.bias"),
                ).to(about["device"])
                for number, name in enumerate(about["classes"])
            }
        return {"llm_probes": probes, "llm_test_accuracies": about["accuracies"]}


def _probe(weight: torch.Tensor, bias: torch.Tensor) -> Probe:
    # Initial weights are drawn and overwritten; upstream's random state must not change.
    with torch.random.fork_rng(devices=[]):
        probe = Probe(weight.shape[1], weight.dtype)
    probe.load_state_dict({"net.weight": weight, "net.bias": bias})
    return probe


def _nothing(*_: Any) -> dict[str, Any]:
    return {}


def layer_of(hook_name: str) -> int:
    """Return the number of a hook's block, as upstream reads it off its name."""
    found = re.search(r"\d+", hook_name)
    if found is None:
        raise ValueError(f"Hook {hook_name!r} names no block")
    return int(found[0])
