"""Settings of the meta-structure evaluation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True)
class MetaStructureOptions:
    """
    Settings of the meta-SAE, ``RunContext.options["meta_structure"]``.

    Upstream's defaults but for ``train_steps`` and ``autocast``.
    """

    width_ratio: float = Field(default=0.25, gt=0, allow_inf_nan=False)
    """Latents of the meta-SAE as a share of the SAE's."""

    k: int = Field(default=4, ge=1)
    """Latents that stand for a row, on average."""

    train_steps: int = Field(default=300, ge=1)
    """Steps of Adam; published: 1500, which takes minutes an SAE on a CPU."""

    train_batch_size: int = Field(default=1024, ge=1)
    """Decoder rows in one step, drawn with replacement."""

    learning_rate: float = Field(default=5e-4, gt=0, allow_inf_nan=False)
    """Of Adam, constant."""

    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Of Adam."""

    autocast: bool = False
    """Train with bfloat16 products; published: True, which is slower on most CPUs."""

    eval_batch_size: int = Field(default=4096, ge=1)
    """Rows in one batch of upstream's figure, which depends on it."""

    dtype: Literal["float32", "float64", "float16", "bfloat16"] = "float32"
    """Data type of decoder and meta-SAE."""
