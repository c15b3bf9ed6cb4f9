"""What several of SAEBench's evals ask of an SAE's hook and of a hub data set."""

from __future__ import annotations

import re

from saereg_plugin.sources import corpora
from saereg_plugin.sources.assets import require_hub_repo

# Heads stand in a dimension of their own there.
_BY_HEAD = re.compile(r"\.attn\.hook_|\.hook_[qkv]_input$|\.hook_attn_in$")


def has_heads(hook_name: str) -> bool:
    """
    Whether a hook gives a vector for each head, which no probe of upstream's can read.

    >>> has_heads("blocks.3.attn.hook_z"), has_heads("blocks.3.hook_resid_post")
    (True, False)
    """
    return _BY_HEAD.search(hook_name) is not None


def require_dataset(repository: str) -> None:
    """
    Refuse a hub data set that is neither in the cache nor reachable.

    Raises:
        InputError: within seconds, saying what works offline.
    """
    if not corpora.is_cached(repository):
        require_hub_repo(
            repository,
            kind="dataset",
            advice="Data 'embedded' (`--data embedded`) works offline; its scores are not "
            "comparable with published ones.",
        )
