"""The components of an SAE, in the order in which they act."""

from __future__ import annotations

import traceback
import zlib
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from saereg_plugin.architectures.config import RegularizedConfigMixin
from saereg_plugin.component import Component, Step
from saereg_plugin.errors import InputError
from saereg_plugin.mechanics.initialization import BDecFromFirstBatch
from saereg_plugin.mechanics.norm_mask import NormMask
from saereg_plugin.mechanics.row_floor import RowFloor, UnitNormDecoder
from saereg_plugin.registry import acts

P = ParamSpec("P")
R = TypeVar("R")

_EXPECTED = "expected a scalar tensor of floats with gradients, or None"
_ACTING = ("gradient", "before_step", "after_step")
"""Methods by which a component acts when its loss has no gradients."""


def build_components(cfg: RegularizedConfigMixin) -> list[Component]:
    """
    Make the components of a configuration, in the order in which they act.

    Regularisers come first, so that mechanics also act on their gradients. Mechanics follow
    by their ``order``. Unit norm is among them: after those that change single gradients or
    weights, and before resampling, which sets rows of norm 1 itself. The floor of free rows
    comes last.
    """
    base_seed = torch.initial_seed() if cfg.init_seed is None else cfg.init_seed
    components: list[Component] = []
    if cfg.max_norm_multiple is not None:
        components.append(NormMask(label="norm_mask", multiple=cfg.max_norm_multiple))
    for number, (label, regularizer) in enumerate(cfg.labelled_regularizers().items()):
        seed = _seed(base_seed, number)
        components.append(regularizer.build(cfg, label=label, seed=seed))
    if cfg.b_dec_init != "zero":
        # after those that leave rows out of the batch
        components.append(BDecFromFirstBatch(label="b_dec_init", method=cfg.b_dec_init))
    ordered: list[tuple[int, Component]] = []
    for mechanic in cfg.mechanics:
        # by name: the seed must not depend on the order in the list
        seed = _seed(base_seed, zlib.crc32(mechanic.name.encode()))
        ordered.append((mechanic.order, mechanic.build(cfg, seed=seed)))
    if cfg.unit_norm:
        ordered.append((UnitNormDecoder.order, UnitNormDecoder(label="unit_norm")))
    if _shortens_rows(cfg):
        ordered.append((RowFloor.order, RowFloor(label="row_floor")))
    ordered.sort(key=lambda pair: pair[0])
    return components + [component for _, component in ordered]


def _shortens_rows(cfg: RegularizedConfigMixin) -> bool:
    """Return whether SAELens divides by norms of rows that a component may shrink to 0."""
    return getattr(cfg, "rescale_acts_by_decoder_norm", False) and bool(
        cfg.mechanics or any(acts(each.to_dict()) for each in cfg.regularizers)
    )


def _seed(base_seed: int, number: int) -> int:
    return (base_seed * 1_000_003 + number) % 2**63


def call(
    component: Component, method: Callable[P, R], *args: P.args, **kwargs: P.kwargs
) -> R:
    """
    Call a component's bound ``method``.

    Raises:
        InputError: naming the component and the line, if the method raised an error other
            than an ``InputError`` or a lack of memory.
    """
    try:
        return method(*args, **kwargs)
    except (InputError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise InputError(
            f"{component.label}: {type(component).__name__}.{method.__name__}() raised "
            f"{type(error).__name__} ({error}) in {last.filename}, line {last.lineno}."
        ) from error


# what a component computes may be compiled (compile_sae=True), these checks are Python
@torch.compiler.disable(recursive=False)
def rows_of(component: Component, sae_in: torch.Tensor) -> torch.Tensor:
    """Return the rows [n, d_in] that a component trains on; refuses anything else."""
    rows = call(component, component.prepare, sae_in)
    if not isinstance(rows, torch.Tensor) or rows.shape[1:] != sae_in.shape[1:]:
        shape = tuple(rows.shape) if isinstance(rows, torch.Tensor) else repr(rows)
        raise InputError(
            f"{component.label}: {type(component).__name__}.prepare() returned {shape}; expected "
            f"rows of its input, a tensor [n, {sae_in.shape[-1]}]."
        )
    return rows


@torch.compiler.disable(recursive=False)
def loss_of(
    component: Component, step: Step, cfg: RegularizedConfigMixin
) -> torch.Tensor | None:
    """
    Return the loss of a component.

    Raises:
        InputError: naming the component, if it raises, or returns no scalar of floats, a
            value without gradients that should act through them, or in the first step a
            value that is not finite though the SAE's output is.
    """
    value = call(component, component.loss, step)
    if value is None:
        return None
    if not isinstance(value, torch.Tensor):
        _refuse(component, f"the {type(value).__name__} {value!r}")
    if value.ndim != 0 or not value.is_floating_point():
        dtype = str(value.dtype).removeprefix("torch.")
        _refuse(component, f"a tensor of shape {tuple(value.shape)} and dtype {dtype}")
    if not value.requires_grad and _should_act(component, step, cfg) and bool(value):
        _refuse(
            component,
            "a value without gradients (detached, or computed under torch.no_grad)",
        )
    if step.index == 0 and not value.isfinite() and step.sae_out.isfinite().all():
        _refuse(component, f"{float(value.detach())} in the first step")
    return value


def _refuse(component: Component, returned: str) -> None:
    raise InputError(
        f"{component.label}: {type(component).__name__}.loss() returned {returned}; {_EXPECTED}. "
        "Correct the regulariser, or set in_loss = False to log a value only."
    )


def _should_act(component: Component, step: Step, cfg: RegularizedConfigMixin) -> bool:
    """Return whether a component is to change weights, and can by its loss alone."""
    if not component.in_loss or any(
        getattr(type(component), name) is not getattr(Component, name)
        for name in _ACTING
    ):
        return False
    regularizer = cfg.labelled_regularizers().get(component.label)
    if regularizer is None:
        return False
    coefficient = regularizer.schedule.value(regularizer.coefficient, step.index)
    return coefficient != 0 and any(p.requires_grad for p in step.sae.parameters())
