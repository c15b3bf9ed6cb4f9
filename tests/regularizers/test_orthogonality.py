"""Orthogonality against its formula, its chunks, and what it does to a dictionary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import saereg_plugin as sr
from saereg_plugin import Orthogonality
from saereg_plugin.metrics import row_geometry
from saereg_plugin.regularizers.cosines import Directions, nearest_others
from saereg_plugin.regularizers.orthogonality import nearest_in_chunks
from tests.oracles import directional_oracle as oracle
from tests.regularizers.directional import (
    LATENTS,
    WIDTH,
    assert_gradient,
    assert_resumes,
    random_rows,
    small_sae,
    small_trainer,
    step_of,
)
from tests.training import component, run_steps

LABEL = "orthogonality"


def chunks_of(sae: Any) -> list[torch.Tensor]:
    """The chunks that the next step will draw."""
    part = component(sae, LABEL)
    state = part.generator.get_state()
    chunks = list(part.split(LATENTS))
    part.generator.set_state(state)
    return chunks


def bound(sae: Any) -> Any:
    sae.bind()
    return sae


@pytest.mark.parametrize("similarity", ["signed", "absolute"])
@pytest.mark.parametrize("chunk_size", [LATENTS, 10, 2])
def test_value_and_gradient_are_those_of_the_formula(
    chunk_size: int, similarity: Any
) -> None:
    penalty = Orthogonality(chunk_size=chunk_size, similarity=similarity)
    sae = bound(small_sae(penalty).double())
    sae.W_dec.data *= torch.linspace(0.3, 3, LATENTS)[:, None]
    chunks = chunks_of(sae)
    assert len(chunks) == -(-LATENTS // chunk_size)
    absolute = similarity == "absolute"
    assert_gradient(
        sae, LABEL, lambda rows: oracle.orthogonality(rows, chunks, absolute=absolute)
    )


def test_signed_and_absolute_differ_where_rows_are_opposite() -> None:
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.1], [0.6, 0.8]])
    unit = Directions.of(rows).unit
    signed = nearest_in_chunks(unit, [torch.arange(3)])
    absolute = nearest_in_chunks(unit, [torch.arange(3)], absolute=True)
    assert signed.partner.tolist() == [2, 2, 0]
    assert absolute.partner.tolist() == [1, 0, 0]
    assert absolute.cosine[0] < -0.9


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(2, 40),
    entries=st.integers(1, 500),
    absolute=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_block_finds_the_same_partners(
    n: int, entries: int, absolute: bool, seed: int
) -> None:
    unit = Directions.of(random_rows(n, 5, seed=seed).double()).unit
    cosines = unit @ unit.T
    if absolute:
        cosines.abs_()
    cosines.fill_diagonal_(-2)
    found = nearest_others(unit, absolute=absolute, block_entries=entries)
    assert torch.equal(found, cosines.argmax(dim=1))


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 60), size=st.integers(2, 20), seed=st.integers(0, 9))
def test_chunks_hold_every_latent_once(n: int, size: int, seed: int) -> None:
    sae = bound(small_sae(Orthogonality(chunk_size=size), init_seed=seed))
    chunks = component(sae, LABEL).split(n)
    assert sorted(torch.cat(list(chunks)).tolist()) == list(range(n))
    assert len(chunks) == -(-n // size)
    assert max(map(len, chunks)) <= size
    assert max(map(len, chunks)) - min(map(len, chunks)) <= 1


def test_a_latent_alone_in_its_chunk_has_no_penalty() -> None:
    unit = Directions.of(random_rows(3, 4)).unit
    pairs = nearest_in_chunks(unit, [torch.tensor([1]), torch.tensor([0, 2])])
    assert pairs.cosine[1] == 0
    assert pairs.weight.tolist() == [0.25, 0.5, 0.25]


def test_chunks_change_with_the_step_and_follow_the_seed() -> None:
    def drawn(init_seed: int, steps: int) -> list[int]:
        sae = small_sae(Orthogonality(chunk_size=8), init_seed=init_seed)
        before = torch.get_rng_state()
        run_steps(small_trainer(sae), steps)
        assert torch.equal(torch.get_rng_state(), before)
        return chunks_of(sae)[0].tolist()

    assert drawn(1, 2) == drawn(1, 2)
    assert drawn(1, 2) != drawn(1, 3)
    assert drawn(1, 2) != drawn(2, 2)


def test_every_nth_step_counts_n_times() -> None:
    sae = small_sae(Orthogonality(coefficient=0.25, every=5, chunk_size=LATENTS))
    trainer = small_trainer(sae)
    for index in range(11):
        expected = float(oracle.orthogonality(sae.W_dec.detach(), [torch.arange(24)]))
        (output,) = run_steps(trainer, 1)
        value = float(output.losses[LABEL])
        if index % 5:
            assert value == 0
        else:
            assert value == pytest.approx(5 * 0.25 * expected, rel=1e-5)


@pytest.mark.parametrize("constraint", ["none", "unit_norm"])
def test_it_lowers_mean_cos_sim(constraint: str) -> None:
    def trained(coefficient: float) -> float:
        penalty = Orthogonality(coefficient=coefficient, chunk_size=12)
        sae = small_sae(penalty, decoder_constraint=constraint)
        run_steps(small_trainer(sae, lr=3e-3), 150)
        return row_geometry(sae.W_dec.detach()).mean_max

    assert trained(20.0) < trained(0.0) - 0.05


def test_resumes_exactly(tmp_path: Path) -> None:
    assert_resumes(
        lambda: small_sae(Orthogonality(chunk_size=8, every=2), init_seed=3), tmp_path
    )


def test_a_sparse_step_gets_the_same_penalty() -> None:
    penalty = Orthogonality(chunk_size=LATENTS, coefficient=2.0)
    outputs = [
        run_steps(small_trainer(small_sae(penalty, sparse_step=mode)), 3)
        for mode in ("always", "never")
    ]
    for sparse, dense in zip(*outputs, strict=True):
        assert sparse.active is not None
        torch.testing.assert_close(sparse.losses[LABEL], dense.losses[LABEL])
        torch.testing.assert_close(sparse.loss, dense.loss)


def test_zero_coefficient_changes_no_weight() -> None:
    plain, zero = small_sae(), small_sae(Orthogonality(coefficient=0))
    for sae in (plain, zero):
        run_steps(small_trainer(sae), 5)
    for name, parameter in plain.named_parameters():
        assert torch.equal(parameter, zero.get_parameter(name))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"chunk_size": 1}, "chunk_size is 1; expected a whole number, 2 or more"),
        ({"every": 0}, "every is 0; expected a whole number, 1 or more"),
        ({"every": True}, "every is True"),
        ({"similarity": "unsigned"}, "similarity is 'unsigned'"),
    ],
)
def test_bad_fields_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(sr.InputError, match=message):
        Orthogonality(**fields)


def test_a_bfloat16_sae_trains() -> None:
    sae = small_sae(Orthogonality(chunk_size=8)).to(torch.bfloat16)
    sae.bind()
    part = component(sae, LABEL)
    rows = sae.W_dec
    part.loss(step_of(sae))
    rows.grad = torch.zeros_like(rows)
    with torch.no_grad():
        part.gradient("W_dec", rows)
    assert rows.grad.dtype == torch.bfloat16
    assert rows.grad.isfinite().all()
    assert rows.grad.shape == (LATENTS, WIDTH)
    assert float(rows.grad.abs().max()) > 0
