"""The steering results below a folder, of all SAEs or of those that are asked for."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from eval_recipes.results.files import read_result
from eval_recipes.results.reading import result_files
from eval_recipes.steering.options import EVAL
from saereg_plugin.errors import InputError

SaeKey = tuple[str, str]
"""Release and id of an SAE."""


def steering_results(
    results: Path, keep: Collection[SaeKey] | None = None
) -> list[tuple[Path, dict[str, Any]]]:
    """
    Return every steering result below a folder, file and record.

    Args:
        results: the folder.
        keep: only these SAEs; None is all.

    Raises:
        InputError: if there is none.
    """
    found = [
        (path, record)
        for path in result_files(results)
        if (record := read_result(path))["eval_type_id"] == EVAL
        and (keep is None or key_of(record) in keep)
    ]
    if not found:
        whose = "" if keep is None else " of these SAEs"
        raise InputError(
            f"Folder {str(results)!r} has no result of the evaluation 'steering'{whose}; "
            "expected one or more. Run it into this folder."
        )
    return found


def key_of(record: dict[str, Any]) -> SaeKey:
    """Return release and id of a result's SAE."""
    return str(record["sae_lens_release_id"]), str(record["sae_lens_id"])
