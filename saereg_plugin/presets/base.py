"""What a preset is: a paper's SAE as fields, its run, and who decided what."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from sae_lens import TrainingSAEConfig

from saereg_plugin.errors import InputError
from saereg_plugin.registry import training_classes

Fields = dict[str, Any]


class Widths(NamedTuple):
    """Of one SAE."""

    d_in: int
    d_sae: int


MakeFields = Callable[[Widths], Fields]
"""From the widths to the other fields of an SAE: conversions depend on them."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What belongs to the run and not to the SAE; names and units are those of SweepConfig."""

    model: str | None
    """None where the paper's activations are not a language model's."""
    hook_name: str | None
    corpus: str | None
    tokens: int
    """Training samples: tokens, or images."""
    batch_size: int
    lr: float
    context_size: int = 128
    lr_warm_up_steps: int = 0
    lr_decay_fraction: float = 0.2
    dead_feature_window: int = 1000
    exclude_special_tokens: bool = True
    prepend_bos: bool = True
    buffer_tokens: int = 65_536
    mixing_fraction: float = 0.5
    disable_concat_sequences: bool = False
    seeds: tuple[int, ...] = (0, 1, 2)

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return self.tokens // self.batch_size


def open_run(model: str, hook_name: str) -> Run:
    """Return a run of which only model and hook are given; the rest is ours."""
    return Run(
        model=model,
        hook_name=hook_name,
        corpus="monology/pile-uncopyrighted",
        tokens=50_000_000,
        batch_size=2048,
        lr=3e-4,
    )


@dataclass(frozen=True, kw_only=True)
class Preset:
    """
    A paper's settings.

    Attributes:
        name: of the function that made it.
        paper: arXiv id.
        architecture: of the SAE.
        d_in: the paper's.
        d_sae: the paper's.
        run: what belongs to the run.
        stated: fields that the paper states, as far as we have it; a setting inside a
            regulariser or mechanic is ``name.field``.
        chosen: every other field that can change what is learned, and why it is as it is.
    """

    name: str
    paper: str
    architecture: str
    d_in: int
    d_sae: int
    run: Run
    stated: tuple[str, ...]
    chosen: Mapping[str, str]
    make: MakeFields = field(repr=False)

    def __post_init__(self) -> None:
        both = sorted(set(self.stated) & set(self.chosen))
        if both:
            raise InputError(
                f"Preset {self.name!r} lists {both} as stated and as chosen."
            )
        object.__setattr__(self, "chosen", MappingProxyType(dict(self.chosen)))

    def sae_fields(
        self, *, d_in: int | None = None, d_sae: int | None = None
    ) -> Fields:
        """Return the fields of the SAE as plain JSON, as ``SweepConfig.sae`` takes them."""
        widths = Widths(
            self.d_in if d_in is None else d_in,
            self.d_sae if d_sae is None else d_sae,
        )
        return {
            "architecture": self.architecture,
            "d_sae": widths.d_sae,
            **self.make(widths),
        }

    def sae(
        self, *, d_in: int | None = None, d_sae: int | None = None, **changes: Any
    ) -> TrainingSAEConfig:
        """
        Return the SAE's configuration, for SAELens' runners.

        Args:
            d_in: width of your activations; coefficients are converted for it.
            d_sae: latents.
            changes: any other field of the configuration; replaces the preset's.

        Raises:
            InputError: if the fields contradict one another.
        """
        values = self.sae_fields(d_in=d_in, d_sae=d_sae)
        _, config_class = training_classes(values.pop("architecture"))
        width = self.d_in if d_in is None else d_in
        given: dict[str, Any] = {"d_in": width, **values, **changes}
        known = {item.name for item in dataclasses.fields(config_class)}
        for name in changes:
            if name not in known:
                raise InputError(
                    f"Preset {self.name!r}: {self.architecture!r} has no field {name!r}."
                )
        return config_class(**given)

    def sweep_fields(
        self, *, d_in: int | None = None, d_sae: int | None = None, **changes: Any
    ) -> Fields:
        """
        Return the fields of a SweepConfig: the run, and the SAE under ``sae``.

        Args:
            d_in: width of the activations at the hook.
            d_sae: latents.
            changes: fields of SweepConfig that replace the paper's; those under ``sae``
                replace single fields of the SAE.

        Raises:
            InputError: if the paper has no language model and none is given.
        """
        sae = {
            **self.sae_fields(d_in=d_in, d_sae=d_sae),
            **changes.pop("sae", {}),
        }
        fields = {**dataclasses.asdict(self.run), "sae": sae, **changes}
        missing = [
            name for name in ("model", "hook_name", "corpus") if fields[name] is None
        ]
        if missing:
            raise InputError(
                f"Preset {self.name!r} (arXiv {self.paper}) was not trained on a language model: "
                f"give {', '.join(missing)}, and d_in of that hook, or take .sae(d_in=...) and train "
                "on your own activations."
            )
        return fields
