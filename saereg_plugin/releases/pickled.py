"""SAEs in pickle files: permission to read them, and dictionary_learning's format."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from sae_lens.loading.pretrained_sae_loaders import (
    dictionary_learning_sae_huggingface_loader_1,
    get_dictionary_learning_config_1_from_hf,
)

from saereg_plugin.errors import InputError
from saereg_plugin.releases.hub import SNAPSHOTS, Snapshot, find_snapshot

DICTIONARY_LOADER = "saereg_dictionary_learning"
"""Our loader of dictionary_learning's format in SAELens' tables."""
FLAG = "--allow-pickle"
PICKLED_FORMATS = frozenset(
    {
        "connor_rob_hook_z",
        "deepseek_r1",
        "dictionary_learning_1",
        "goodfire",
        "qwen_scope",
    }
)
"""SAELens' loaders that read weights with ``torch.load``; the others read safetensors or npz."""

WEIGHTS, CONFIG = "ae.pt", "config.json"
"""Files of an SAE of dictionary_learning."""

_UNRESTRICTED = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


def require_pickle_allowed(name: str, *, allowed: bool) -> None:
    """
    Refuse to read a release whose SAEs are pickle files, unless the user allows it.

    Allowed files are still read with ``weights_only``: PyTorch then builds tensors and plain
    containers, and refuses a file that names any other class or function.

    Raises:
        InputError: without permission, or if the environment lifts PyTorch's restriction.
    """
    if not allowed:
        raise InputError(
            f"The SAEs of {name!r} are pickle files, which can hold code; expected safetensors. If "
            f"you trust their authors, give {FLAG} (in Python allow_pickle=True): PyTorch then "
            "reads tensors from them and refuses everything else."
        )
    if os.environ.get(_UNRESTRICTED, "").lower() in ("1", "y", "yes", "true"):
        raise InputError(
            f"The variable {_UNRESTRICTED} lets pickle files run code; expected it not to be set. "
            "Unset it."
        )


def load_dictionary_learning(
    repo_id: str,
    folder_name: str,
    device: str = "cpu",
    force_download: bool = False,
    cfg_overrides: dict[str, Any] | None = None,
) -> tuple[dict[str, Any], dict[str, torch.Tensor], torch.Tensor | None]:
    """
    Read an SAE of an opened snapshot as SAELens does, and check what SAELens does not.

    This is a loader by SAELens' protocol; ``repo_id`` is the snapshot's folder.

    SAELens turns a BatchTopK SAE into a JumpReLU SAE with the threshold that training
    estimated. Before the first estimate the threshold is -1, with which every latent fires
    wherever it is positive.

    Raises:
        InputError: if SAELens would read another commit, if the file holds more than tensors, or
            if a BatchTopK SAE has no threshold.
    """
    snapshot, path = SNAPSHOTS[Path(repo_id)], folder_name
    repository = snapshot.repository
    if find_snapshot(repository).commit != snapshot.commit:
        raise _moved(snapshot)
    try:
        cfg, state, sparsity = dictionary_learning_sae_huggingface_loader_1(
            repository, path, device, force_download, cfg_overrides
        )
    # the class that torch raises; this package imports no pickle
    except torch.serialization.pickle.UnpicklingError as error:
        raise InputError(
            f"{WEIGHTS} of SAE {path!r} of {repository!r} is damaged, or holds more than tensors; "
            "PyTorch refused it, and none of its code ran. Leave it out with --sae-id."
        ) from error
    # main may have changed since
    _require_commit(snapshot, f"{path}/{WEIGHTS}")
    if cfg["architecture"] == "jumprelu":
        threshold = state.get("threshold")
        if threshold is None or bool((threshold < 0).all()):
            found = "none" if threshold is None else f"{float(threshold.max()):g}"
            raise InputError(
                f"SAE {path!r} of {repository!r} is a BatchTopK SAE whose threshold was not "
                f"estimated in training: {found} in {WEIGHTS}; expected 0 or more. Without it "
                "another number of latents fires than in training. Leave it out with --sae-id."
            )
    return cfg, state, sparsity


def read_dictionary_learning_cfg(
    repo_id: str,
    folder_name: str,
    device: str | None = None,
    force_download: bool = False,
    cfg_overrides: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Read its configuration (SAELens' configuration-getter protocol)."""
    snapshot = SNAPSHOTS[Path(repo_id)]
    cfg = get_dictionary_learning_config_1_from_hf(
        snapshot.repository, folder_name, device or "cpu", force_download, cfg_overrides
    )
    _require_commit(snapshot, f"{folder_name}/{CONFIG}")
    return cfg


def _require_commit(snapshot: Snapshot, file: str) -> None:
    """Refuse a file that SAELens did not read at the opened commit."""
    read = try_to_load_from_cache(snapshot.repository, file)
    if not isinstance(read, str) or snapshot.commit not in Path(read).parts:
        raise _moved(snapshot)


def _moved(snapshot: Snapshot) -> InputError:
    return InputError(
        f"SAELens reads SAEs of dictionary_learning at 'main' only, and 'main' of "
        f"{snapshot.repository!r} is not commit {snapshot.commit}. Leave out the revision."
    )
