"""Name of the release that a sweep writes."""

from __future__ import annotations

from pathlib import Path

from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

from saereg_plugin.checks import require_name
from saereg_plugin.errors import InputError
from saereg_plugin.releases.release import LOADER
from saereg_plugin.sweeps.config import SweepConfig, sae_ids

_MOST_BYTES = 255 - len("._eval_results.json") - len("..01234567.tmp")
"""Longest release name with an SAE's id, so that the file of a result can be written."""


def release_name(sweep: SweepConfig, folder: Path, name: str | None) -> str:
    """
    Return the release's name: ``name``, or that of the folder.

    Raises:
        InputError: if results of it could not be written or found again, or a public
            release has that name.
    """
    wanted = folder.resolve().name if name is None else name
    remedy = "" if name is not None else " Give another one with --name."
    try:
        require_name("Release name", wanted, slashes=True)
    except InputError as error:
        raise InputError(f"{error}{remedy}") from error
    for one_id in sae_ids(sweep):
        size = len(f"{wanted}{one_id}".encode())
        if size > _MOST_BYTES:
            raise InputError(
                f"Release name {wanted!r} and SAE id {one_id!r} have {size} bytes together, and are "
                f"in the name of one file; expected at most {_MOST_BYTES}. Choose shorter names."
            )
    public = get_pretrained_saes_directory().get(wanted)
    if public is not None and public.conversion_func != LOADER:
        raise InputError(
            f"Release name {wanted!r} is that of a public release, which SAELens would load instead; "
            f"expected a name of your own.{remedy or ' Choose another --name.'}"
        )
    return wanted
