"""Hub repositories of SAEs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import repo_folder_name
from sae_lens.constants import SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME
from sae_lens.loading.pretrained_saes_directory import PretrainedSAELookup

from saereg_plugin.checks import require_name
from saereg_plugin.errors import InputError
from saereg_plugin.sources.assets import require_hub_repo


def require_reachable(repository: str) -> None:
    """
    Prove within seconds that a hub repository can be read, from the cache or the hub.

    Raises:
        InputError: if it can be read from neither.
    """
    cached = Path(HF_HUB_CACHE) / repo_folder_name(
        repo_id=repository, repo_type="model"
    )
    if not cached.is_dir():
        require_hub_repo(
            repository,
            kind="model",
            advice="Give a release folder, or try again with a network.",
        )


def hub_lookup(repository: str) -> PretrainedSAELookup:
    """Describe a hub repository that is in no table, from its list of files."""
    try:
        files = HfApi().list_repo_files(repository)
    except (HfHubHTTPError, OSError) as error:
        raise InputError(
            f"Release {repository!r} is no local folder and no public release, and as a hub "
            f"repository it cannot be listed ({type(error).__name__}). Check the name and the network."
        ) from error
    for loader, weights, config in (
        ("sae_lens", SAE_WEIGHTS_FILENAME, SAE_CFG_FILENAME),
        ("dictionary_learning_1", "ae.pt", "config.json"),
    ):
        folders = sae_folders(files, weights, config)
        for folder in folders:
            require_name(
                f"The folder of an SAE in {repository!r}", folder, slashes=True
            )
        if folders:
            return PretrainedSAELookup(
                release=repository,
                repo_id=repository,
                model="",
                conversion_func=loader,
                saes_map={folder: folder for folder in folders},
                expected_var_explained={},
                expected_l0={},
                neuronpedia_id={},
                norm_scaling_factor={},
                config_overrides=None,
            )
    raise InputError(
        f"Hub repository {repository!r} holds no SAE; expected folders with {SAE_WEIGHTS_FILENAME} "
        f"and {SAE_CFG_FILENAME} (SAELens), or ae.pt and config.json (dictionary_learning)."
    )


def sae_folders(files: Iterable[str], weights: str, config: str) -> list[str]:
    """Return the folders among ``files`` that hold both a weights and a config file."""
    present = set(files)
    return sorted(
        file.removesuffix(f"/{weights}")
        for file in present
        if file.endswith(f"/{weights}")
        and f"{file.removesuffix(weights)}{config}" in present
    )
