"""Deaths of latents under weight penalties, with and without AuxK."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import pandas as pd

from eval_recipes.studies.framework.definition import (
    ALIVE,
    D_IN,
    VARIANCE,
    Column,
    Plan,
    Revive,
    Scale,
    Stage,
    Study,
    small_sweep,
)
from eval_recipes.studies.framework.report import values_of
from eval_recipes.studies.framework.verdicts import Claim
from saereg_plugin.errors import InputError
from saereg_plugin.sweeps import SweepConfig

DEAD = Column("death", "shares/dead_share", "dead share")
BORN_DEAD = Column("death", "shares/born_dead", "born dead")
PREDICTED = Column("death", "shares/predicted_here", "predicted born dead")
DIED = Column("death", "counts/fired_then_died", "fired, then died")
BY_RELU = Column("death", "counts/dead_by_relu", "dead by ReLU")
COLLAPSED = Column("death", "counts/dead_collapsed", "dead, collapsed")
LATENTS = Column("revival", "figures/latents", "latents given back")
FIRE = Column("revival", "figures/fire_again", "share that fires again")
REVIVED = Column("revival", "figures/revived_variance_gain", "variance by revival")
CONTROL = Column("revival", "figures/control_variance_gain", "variance by control")
PER_LATENT = Column(
    "revival",
    "figures/variance_gain_over_control_per_latent",
    "variance over control, per latent",
)
LOSS = Column("revival", "figures/revived_loss_gain", "CE by revival")

WEAK, STRONG = 3e-3, 1.2e-2
"""L2 coefficients, half and twice those of the demo."""

_D_SAE = 1536
_TOKENS = 307_200
_BATCH = 1024
_STEPS = _TOKENS // _BATCH
_K = 32


def group(coefficient: float, *, auxk: bool, annealed: bool = False) -> dict[str, Any]:
    """Return the fields of one group; an annealed penalty is 0 from half of the steps on."""
    schedule = {"anneal": "linear", "anneal_steps": _STEPS // 2}
    penalty = {
        "name": "weight_penalty",
        "norm": "l2",
        "coefficient": coefficient,
        **({"schedule": schedule} if annealed else {}),
    }
    return {
        "architecture": "regularized_topk",
        "d_in": D_IN,
        "d_sae": _D_SAE,
        "k": _K,
        "decoder_constraint": "unit_norm",
        "normalize_activations": "expected_average_only_in",
        "aux_loss_coefficient": 1.0 if auxk else 0.0,
        "regularizers": [penalty] if coefficient else [],
    }


def groups() -> dict[str, dict[str, Any]]:
    """Return no penalty, L2 at two strengths with and without AuxK, and annealed L2."""
    found: dict[str, dict[str, Any]] = {}
    strengths = {"none": 0.0, "l2-weak": WEAK, "l2-strong": STRONG}
    for name, coefficient in strengths.items():
        found[name] = group(coefficient, auxk=True)
        found[f"{name}-no-auxk"] = group(coefficient, auxk=False)
    found["l2-annealed"] = group(STRONG, auxk=True, annealed=True)
    return found


def _saes(_: pd.DataFrame) -> SweepConfig:
    return _sweep(groups())


def _controls(frame: pd.DataFrame) -> SweepConfig:
    """Return an unregularised control of every group, as wide as its alive latents."""
    controls: dict[str, dict[str, Any]] = {}
    matched: dict[str, str] = {}
    for name, fields in groups().items():
        shares = [1.0] if frame.empty else [*values_of(frame, name, ALIVE).values()]
        if not shares:
            raise InputError(
                f"Group {name!r} has no alive share, so its control has no width; expected one of each "
                "group. Look at what the evaluation reported and run again."
            )
        width = max(round(statistics.median_low(shares) * _D_SAE), _K)
        controls[f"{name}-matched"] = {**fields, "regularizers": [], "d_sae": width}
        matched[f"{name}-matched"] = f"death-small-saes/{name}"
    return _sweep(controls, matched_to=matched)


def _sweep(of: dict[str, dict[str, Any]], **changes: Any) -> SweepConfig:
    return small_sweep(
        of,
        tokens=_TOKENS,
        batch_size=_BATCH,
        # SAELens' 1,000 steps are more than the run has: AuxK would never act
        dead_feature_window=_STEPS // 5,
        **changes,
    )


def _plan(scale: Scale) -> Plan:
    if scale == "paper":
        raise InputError(
            "The study death has no paper scale: arXiv 2605.31518 trains 14 models' SAEs without weight "
            "penalties. Use --scale small."
        )
    return Plan(
        stages=(
            Stage("saes", _saes, evals=("death",)),
            Stage("controls", _controls, evals=(), in_table=False),
        ),
        revive=Revive("saes", "controls", latents=64, steps=100, loss_contexts=8),
        settings="SmolLM2-135M-Instruct, blocks.2.hook_resid_post, d_sae 1,536, k 32, 307,200 tokens in "
        "batches of 1,024, lr 1e-3; 64 dead latents given back for 100 steps.",
    )


def _claims(_: Scale) -> Sequence[Claim]:
    return [
        DEAD.claim("l2-weak", "higher", "none"),
        DEAD.claim("l2-strong", "higher", "l2-weak"),
        DEAD.claim("none-no-auxk", "higher", "none"),
        DEAD.claim("l2-strong-no-auxk", "higher", "l2-strong"),
        DEAD.claim("l2-annealed", "lower", "l2-strong"),
        PER_LATENT.claim("none-no-auxk", "higher", "l2-strong"),
        VARIANCE.claim("l2-annealed", "not_lower", "none", margin=0.01),
    ]


STUDY = Study(
    name="death",
    paper="arXiv 2603.04198, 2605.31518",
    summary="Why latents die without a penalty, with L2 and without AuxK, and whether the dead help "
    "when they are given back.",
    plan=_plan,
    columns=(
        *(VARIANCE, ALIVE, DEAD, BORN_DEAD, PREDICTED),
        *(BY_RELU, DIED, COLLAPSED),
        *(LATENTS, FIRE, REVIVED, CONTROL, PER_LATENT, LOSS),
    ),
    claims=_claims,
    notes=(
        "arXiv 2603.04198 asks for useful and pathological deaths to be told apart; the test and all "
        "statements are ours.",
        "A group without dead latents in each of its seeds is not revived: its cells are empty.",
        "Groups with few dead latents are given back fewer, so gains are compared per latent; below a half "
        "that fires again, a gain tests nothing.",
        "For AuxK, dead is what has not fired for a fifth of the steps.",
    ),
)
