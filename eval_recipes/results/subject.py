"""An SAE under evaluation, and the failure to evaluate it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from saereg_plugin.errors import InputError

if TYPE_CHECKING:
    from sae_lens import SAE

_BY_HEAD = re.compile(r"\.attn\.hook_|\.hook_[qkv]_input$|\.hook_attn_in$")
"""Hooks whose activations have an axis of heads."""


@dataclass(frozen=True)
class Subject:
    """
    One SAE under evaluation.

    ``group`` names its configuration: SAEs of one group differ only in ``seed``.
    """

    release: str
    sae_id: str
    group: str
    seed: int | None

    def load(self, device: str = "cpu") -> SAE[Any]:
        """Load the SAE through SAELens; the caller owns the object."""
        from sae_lens import SAE

        return SAE.from_pretrained(self.release, self.sae_id, device=device)

    def load_flat(self, device: str = "cpu") -> SAE[Any]:
        """
        Load the SAE for activations whose heads are joined to one vector.

        An SAE on the heads of attention (``hook_z``) joins them itself unless it is told not to.
        """
        sae = self.load(device)
        if sae.hook_z_reshaping_mode:
            sae.turn_off_forward_pass_hook_z_reshaping()
        return sae


@dataclass(frozen=True)
class SubjectFacts:
    """Facts of an SAE that its configuration states; the weights are not loaded."""

    sae_id: str
    model_name: str | None
    hook_name: str
    """Empty where the configuration has none."""
    hook_head_index: int | None
    d_in: int
    d_sae: int
    context_size: int | None
    n_ctx: int | None
    """Tokens that the model is loaded for, where the metadata limits them."""
    normalize_activations: str | None

    @classmethod
    def read(cls, subject: Subject) -> SubjectFacts:
        """Read the facts from the configuration that SAELens finds."""
        from sae_lens.loading.pretrained_sae_loaders import (
            load_sae_config_from_huggingface,
        )

        cfg = load_sae_config_from_huggingface(subject.release, subject.sae_id)
        metadata: Mapping[str, Any] = cfg.get("metadata") or cfg
        arguments = metadata.get("model_from_pretrained_kwargs") or {}
        return cls(
            sae_id=subject.sae_id,
            model_name=metadata.get("model_name"),
            hook_name=metadata.get("hook_name") or "",
            hook_head_index=metadata.get("hook_head_index"),
            d_in=int(cfg["d_in"]),
            d_sae=int(cfg.get("d_sae") or 0),
            context_size=metadata.get("context_size"),
            n_ctx=arguments.get("n_ctx"),
            normalize_activations=cfg.get("normalize_activations"),
        )

    @property
    def has_heads(self) -> bool:
        """Whether the hook gives a vector per head, or the SAE reads one head."""
        by_head = _BY_HEAD.search(self.hook_name) is not None
        return by_head or self.hook_head_index is not None

    def require_latents(self, least: int, *, eval: str, option: str) -> None:
        """
        Refuse an SAE with too few latents.

        Raises:
            InputError: naming the SAE and the option that asks for fewer.
        """
        if self.d_sae < least:
            raise InputError(
                f"SAE {self.sae_id!r} has {self.d_sae} latents, but {eval} needs {least}. "
                f"Choose a smaller {option!r}, or leave this SAE out."
            )


@dataclass(frozen=True)
class Failure:
    """One evaluation of one SAE that gave no result, and why."""

    eval: str
    sae_id: str
    cause: str
