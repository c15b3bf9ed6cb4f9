"""Every mechanic trains with every regulariser."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import saereg_plugin as sr
from saereg_plugin.registry import MECHANICS
from tests.regularizers.synthetic import (
    CONTEXT,
    D_IN,
    in_batches,
    small_sae,
    token_data,
)
from tests.regularizers.test_matrix import COEFFICIENTS
from tests.training import component, make_trainer, run_steps

STEPS = 6

ACTING: dict[str, sr.MechanicConfig] = {
    "k_annealing": sr.KAnnealing(steps=4),
    "activation_rate_scaling": sr.ActivationRateScaling(decay=0.5),
    "gradient_clipping": sr.GradientClipping(max_norm=0.01),
    "weight_decay": sr.WeightDecay(decay=1.0),
    "frozen_core": sr.FrozenCore(size=5),
    "resampling": sr.DeadLatentResampling(decay=0.5, threshold=0.05, every=2, until=6),
}
"""With values that change the weights within a few steps."""
SAVING = {"weight_ema"}
"""They change the saved SAE alone: see their own tests."""


def test_no_mechanic_is_forgotten() -> None:
    assert set(ACTING) | SAVING == set(MECHANICS)


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("embeddings") / "tokens.safetensors"
    rows = torch.randn(20, D_IN, generator=torch.Generator().manual_seed(1))
    save_file({"wte.weight": rows}, path)
    return str(path)


def trained(
    regularizers: list[dict[str, Any]],
    mechanics: list[sr.MechanicConfig],
    **fields: Any,
) -> tuple[list[Any], list[list[float]]]:
    """An SAE (two, if they are to be linked) after a few steps, and the regulariser's values."""
    linked = any(each["name"] == "mutual_features" for each in regularizers)
    saes = {
        str(seed): small_sae(
            regularizers=regularizers, mechanics=mechanics, init_seed=seed, **fields
        )
        for seed in ((1, 2) if linked else (1,))
    }
    if linked:
        sr.link_saes(saes)
    trainers = [make_trainer(sae, iter(())) for sae in saes.values()]
    values: list[list[float]] = [[] for _ in trainers]
    rows = in_batches(token_data(8 * STEPS), 8 * CONTEXT)
    for batch in (next(rows) for _ in range(STEPS)):
        for trainer, own in zip(trainers, values, strict=True):
            trainer.data_provider = iter([batch])
            (output,) = run_steps(trainer, 1)
            assert output.loss.isfinite()
            losses = [output.losses[each["name"]] for each in regularizers]
            own += [float(loss.detach()) for loss in losses]
    for sae in saes.values():
        assert all(bool(parameter.isfinite().all()) for parameter in sae.parameters())
        assert sae.step_index == STEPS
    return list(saes.values()), values


def differ(saes: list[Any], others: list[Any]) -> bool:
    return all(
        not torch.equal(sae.W_enc, other.W_enc)
        for sae, other in zip(saes, others, strict=True)
    )


@pytest.mark.parametrize(
    "constraint", ["none", pytest.param("unit_norm", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("mechanic", sorted(ACTING))
@pytest.mark.parametrize("name", sorted(COEFFICIENTS))
def test_both_act(name: str, mechanic: str, constraint: str, embeddings: str) -> None:
    regularizer: dict[str, Any] = {"name": name, "coefficient": 5 * COEFFICIENTS[name]}
    if name == "temporal_difference":
        regularizer["context_size"] = CONTEXT
    if name == "vocabulary_anchor":
        regularizer |= {"embeddings": embeddings, "top": 5}
    # position 0 is left out by the temporal difference: the control has it without weight
    without = [{**regularizer, "coefficient": 0.0}]
    fields = {"decoder_constraint": constraint}
    both, values = trained([regularizer], [ACTING[mechanic]], **fields)
    assert all(any(value != 0 for value in own) for own in values)
    if mechanic == "resampling":
        assert component(both[0], "resampling").metrics()["last_resampled"] > 0
    mechanic_only, _ = trained(without, [ACTING[mechanic]], **fields)
    regularizer_only, _ = trained([regularizer], [], **fields)
    if name in ("vocabulary_anchor", "mutual_features", "orthogonality"):
        # these act on the decoder; the encoder follows only through the reconstruction
        pairs = zip(both, mechanic_only, strict=True)
        assert all(not torch.equal(one.W_dec, other.W_dec) for one, other in pairs)
    else:
        assert differ(both, mechanic_only)
    assert differ(both, regularizer_only)
