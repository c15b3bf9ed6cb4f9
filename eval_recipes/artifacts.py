"""What evaluations keep on disk between runs: one folder for each thing that determines it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE

from eval_recipes.plain import plain
from saereg_plugin.assets import cache_dir
from saereg_plugin.files import write_json

KEY_FILE = "key.json"

# A new version of any of these may compute other values.
_PACKAGES = (
    "saereg-plugin",
    "sae-bench",
    "sae-lens",
    "sae-probes",
    "transformer-lens",
    "transformers",
    "torch",
    "numpy",
    "scipy",
    "scikit-learn",
    "datasets",
    "pandas",
    "pyarrow",
)


def default_artifacts() -> Path:
    """Return the folder of artefacts in the user's cache."""
    return cache_dir() / "artifacts"


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that compute."""
    return {name: version(name) for name in _PACKAGES}


def artifact_folder(root: Path, eval: str, determinants: Mapping[str, Any]) -> Path:
    """
    Return (and make) the folder of what ``determinants`` determine, ``root/eval/<hash>``.

    Upstream's own caches are keyed by names only, so a second SAE of the same name got
    the first one's results. Here the key holds every determinant, the versions of the
    packages that compute, and the thread count, on which sums depend.

    Args:
        root: folder of all artefacts.
        eval: name of the evaluation, or of what several of them share.
        determinants: plain values: model, hook, data, sizes, data type, seed, and
            ``weights_hash`` where a result of the SAE is kept.
    """
    key = {
        **plain(determinants),
        "threads": torch.get_num_threads(),
        "packages": package_versions(),
    }
    text = json.dumps(key, sort_keys=True)
    folder = root / eval / hashlib.sha256(text.encode()).hexdigest()[:20]
    if not (folder / KEY_FILE).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / KEY_FILE, key)
    return folder


def weights_hash(sae: SAE[Any]) -> str:
    """Return a hash of an SAE's weights and configuration."""
    digest = hashlib.sha256()
    for name, tensor in sorted(sae.state_dict().items()):
        digest.update(name.encode())
        digest.update(str((tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    digest.update(json.dumps(plain(sae.cfg.to_dict()), sort_keys=True).encode())
    return digest.hexdigest()


def clean_artifacts(root: Path) -> None:
    """Remove all artefacts below ``root``; folders that are none of ours stay."""
    for key in sorted(root.glob(f"*/*/{KEY_FILE}")):
        shutil.rmtree(key.parent)
