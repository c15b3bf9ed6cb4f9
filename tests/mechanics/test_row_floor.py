"""Decoder rows whose norm SAELens divides by never vanish, and neither does the output."""

from __future__ import annotations

import copy
from itertools import islice, product
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE

import saereg_plugin as sr
from saereg_plugin.mechanics.row_floor import FLOOR, directions, least_norm
from saereg_plugin.regularizers.weight_penalty import WeightNorm
from tests.mechanics.small import D_SAE, STEPS, backward, data, small_sae, train
from tests.training import (
    assert_same_optimizer,
    batches,
    make_sae,
    make_trainer,
    row_norms,
)

VANISHING: dict[str, Any] = {
    "l2-coupled": sr.WeightPenalty(coefficient=0.05),
    "l1-decoupled": sr.WeightPenalty(norm="l1", mode="decoupled", coefficient=0.3),
}
"""Penalties under which rows of unused latents get to exactly 0 without the floor."""
NARROW: dict[str, Any] = {"d_in": 16, "d_sae": 256}


def narrow_sae(architecture: str, **fields: Any) -> Any:
    fields = {**NARROW, **fields}
    own: dict[str, Any] = {"k": fields["d_in"] // 4} if "topk" in architecture else {}
    if "matryoshka" in architecture:
        own["matryoshka_widths"] = [64, fields["d_sae"]]
    return make_sae(architecture, **{**own, **fields})


def rows(count: int, seed: int = 0, width: int = 16) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("penalty", VANISHING)
@pytest.mark.parametrize("sparse_step", ["never", "always"])
def test_four_hundred_steps_stay_finite(
    penalty: str, sparse_step: str, tmp_path: Path
) -> None:
    sae = narrow_sae("topk", regularizers=[VANISHING[penalty]], sparse_step=sparse_step)
    trainer = make_trainer(sae, batches(rows(2048), 32), steps=400, batch_size=32)
    trainer.fit()
    least = FLOOR * (1 - 1e-5)
    assert row_norms(sae).min() >= least
    if penalty == "l1-decoupled":
        held = (row_norms(sae) < 1.01 * FLOOR).sum()
        assert held > 0
        assert sae.components["row_floor"].metrics()["rows"] >= held - 5
    sae.save_inference_model(tmp_path)


@pytest.mark.slow
def test_long_training_of_every_architecture_stays_finite(tmp_path: Path) -> None:
    """Without the floor, rows vanish by step 800 under L2 and by step 200 under L1."""
    train_and_save(STEPS, tmp_path)
    x = rows(64, seed=1, width=8)
    folders = list(tmp_path.iterdir())
    assert len(folders) == 2 * len(STEPS)
    for folder in folders:
        sae = SAE.load_from_disk(folder)
        assert type(sae).__module__.startswith("sae_lens."), folder
        assert sae(x).isfinite().all(), folder


def train_and_save(steps: list[tuple[str, dict[str, Any]]], folder: Path) -> None:
    """Train each architecture under each penalty and save it if all is finite."""
    for (architecture, step), name in product(steps, VANISHING):
        fields = {"d_in": 8, "d_sae": 128, "regularizers": [VANISHING[name]], **step}
        sae = narrow_sae(architecture, **fields)
        coupled = name == "l2-coupled"
        held = bare_steps(sae, 1000 if coupled else 400, with_auxiliary=coupled)
        assert (held > 0) == ("row_floor" in sae.components), (architecture, name)
        for parameter in sae.parameters():
            assert parameter.isfinite().all(), (architecture, name)
        sparse = step.get("sparse_step", "dense")
        sae.save_inference_model(folder / f"{architecture}-{sparse}-{name}")


def bare_steps(sae: Any, steps: int, *, with_auxiliary: bool) -> int:
    """SAELens' steps, bare; return the most rows that were ever at the floor."""
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-3, fused=True)
    silent, most = torch.zeros(sae.cfg.d_sae), 0
    for batch in islice(batches(rows(4096, width=8), 4), steps):
        dead = silent > 5 if with_auxiliary else None
        acts = backward(sae, batch, dead).feature_acts.detach()
        silent += 1
        silent[acts.coalesce().indices()[1] if acts.is_sparse else acts.any(dim=0)] = 0
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if "row_floor" in sae.components:
            most = max(most, sae.components["row_floor"].held)
    return most


def test_a_short_row_keeps_its_direction() -> None:
    sae = small_sae(regularizers=[VANISHING["l2-coupled"]])
    sae.bind()
    with torch.no_grad():
        sae.W_dec[2] *= 1e-9
        # its squares are 0 in float32
        sae.W_dec[3] *= 1e-30
        before = sae.W_dec.detach().clone()
    floor = sae.components["row_floor"]
    floor.after_step(torch.optim.Adam(sae.parameters()))
    assert floor.metrics()["rows"] == 2
    for latent in (2, 3):
        unit = before[latent].double() / before[latent].double().norm()
        torch.testing.assert_close(sae.W_dec[latent].detach(), (FLOOR * unit).float())
    rest = torch.ones(D_SAE, dtype=torch.bool)
    rest[[2, 3]] = False
    assert torch.equal(sae.W_dec[rest], before[rest])


def test_a_zero_row_takes_the_direction_of_its_encoder_column() -> None:
    zeros = torch.zeros(3, 4)
    encoder = torch.tensor(
        [[0.0, 3.0, 4.0, 0.0], [0.0, 0.0, 0.0, 0.0], [1e-40, 0, 0, 0]]
    )
    found = directions(zeros, encoder, torch.tensor([0, 6, 2]))
    assert found.tolist()[0] == pytest.approx([0, 0.6, 0.8, 0])
    assert found.tolist()[1:] == [[0, 0, 1, 0], [1, 0, 0, 0]]
    kept = directions(torch.ones(3, 4), encoder, torch.arange(3))
    assert torch.equal(kept, torch.full((3, 4), 0.5))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_the_floor_can_be_held_in_every_data_type(dtype: str) -> None:
    sae = small_sae(regularizers=[VANISHING["l2-coupled"]], dtype=dtype)
    sae.bind()
    with torch.no_grad():
        sae.W_dec[:3] = 0
    sae.components["row_floor"].after_step(torch.optim.Adam(sae.parameters()))
    norms = sae.W_dec.detach().norm(dim=-1)
    assert (norms > 0).all()
    assert norms.reciprocal().isfinite().all()
    assert float(norms[0]) == pytest.approx(least_norm(sae.W_dec), rel=0.1)


@pytest.mark.parametrize(
    ("architecture", "fields"),
    [
        ("topk", {}),
        ("topk", {"regularizers": [sr.WeightPenalty()]}),
        (
            "topk",
            {
                "regularizers": [VANISHING["l1-decoupled"]],
                "decoder_constraint": "unit_norm",
            },
        ),
        ("standard", {"regularizers": [VANISHING["l2-coupled"]]}),
    ],
)
def test_where_nothing_divides_or_nothing_shrinks_there_is_no_floor(
    architecture: str, fields: dict[str, Any]
) -> None:
    assert "row_floor" not in small_sae(architecture, **fields).components


@pytest.mark.parametrize("sparse_step", ["never", "always"])
def test_training_resumes_bit_for_bit_with_rows_at_the_floor(
    sparse_step: str, tmp_path: Path
) -> None:
    fields: dict[str, Any] = {
        "regularizers": [VANISHING["l1-decoupled"]],
        "sparse_step": sparse_step,
    }
    sae = narrow_sae("topk", **fields)
    trained = list(islice(batches(rows(2048), 32), 320))
    optimizer = train(sae, trained[:300], torch.optim.Adam(sae.parameters(), lr=1e-3))
    assert (row_norms(sae) < 1.01 * FLOOR).any()
    sae.save_model(tmp_path)
    again = type(sae).load_from_disk(tmp_path)
    resumed = torch.optim.Adam(again.parameters(), lr=1e-3)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert (
        again.components["row_floor"].metrics()
        == sae.components["row_floor"].metrics()
        != {"rows": 0}
    )
    train(again, trained[300:], resumed)
    train(sae, trained[300:], optimizer)
    for key, value in sae.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
    assert_same_optimizer(resumed, optimizer)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_huge_decoupled_l1_leaves_unit_rows_their_largest_entry(dtype: str) -> None:
    """lr * coefficient is above every entry: the soft threshold would take whole rows."""
    penalty = sr.WeightPenalty(norm="l1", mode="decoupled", coefficient=300.0)
    sae = small_sae(regularizers=[penalty], decoder_constraint="unit_norm", dtype=dtype)
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-2)
    train(sae, [batch.to(sae.W_dec.dtype) for batch in data(3)], optimizer)
    rounding = torch.finfo(sae.W_dec.dtype).eps
    assert (row_norms(sae) - 1).abs().max() < max(1e-5, rounding)
    assert (sae.W_dec.detach().abs().amax(dim=1) > 0.999 - rounding).all()
    assert not sae.W_enc.any(), "the encoder has no norm to keep"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_step_that_would_take_whole_rows_stops_just_short_of_them(
    dtype: torch.dtype,
) -> None:
    weight = torch.tensor(
        [[0.5, -2.0, 1.0], [0.1, 0.1, -0.1], [0.0, 0.0, 0.0]], dtype=dtype
    )
    l1, frobenius = WeightNorm("l1", "sum"), WeightNorm("frobenius", "sum")
    kept = weight.clone()
    l1.shrink_(kept, None, 1.5, lr=1.0, keep_directions=True)
    shares = kept / kept.abs().amax(dim=1, keepdim=True).clamp(min=1e-30)
    assert kept[0].tolist() == [0, -0.5, 0]
    assert shares[1].tolist() == [1, 1, -1]
    assert 0 < kept[1].abs().max() < 0.1 * max(2**-9, 4 * torch.finfo(dtype).eps)
    assert not kept[2].any()
    plain = weight.clone()
    l1.shrink_(plain, None, 1.5, lr=1.0)
    assert plain.tolist() == [[0, -0.5, 0], [0, 0, 0], [0, 0, 0]]
    whole = weight.clone()
    frobenius.shrink_(whole, None, 50.0, lr=1.0, keep_directions=True)
    torch.testing.assert_close(whole / whole[0, 1], weight / weight[0, 1])
    frobenius.shrink_(whole, None, 50.0, lr=1.0)
    assert not whole.any()
