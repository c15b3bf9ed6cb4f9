"""Mutual features against their formula, under SAELens' MultiSAETrainer, in any order."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sae_lens import LoggingConfig
from sae_lens.config import SAETrainerConfig
from sae_lens.training.multi_sae_trainer import MultiSAETrainer

import saereg_plugin as sr
from saereg_plugin import MutualFeatures
from saereg_plugin.regularizers.cosines import Directions, best_partners
from saereg_plugin.regularizers.mutual_features import (
    link_groups,
    link_saes,
    unlink,
)
from tests.oracles import directional_oracle as oracle
from tests.regularizers.directional import (
    WIDTH,
    assert_gradient,
    random_rows,
    small_sae,
    small_trainer,
)
from tests.training import component, run_steps

LABEL = "mutual_features"
HOOK = "blocks.1.hook_resid_post"
NO_RAMP = sr.Schedule()


def members(
    *names: str,
    coefficient: float = 2.0,
    schedule: sr.Schedule = NO_RAMP,
    **fields: Any,
) -> dict[str, Any]:
    """Linked SAEs that differ in their seed."""
    penalty = MutualFeatures(coefficient=coefficient, schedule=schedule)
    saes = {
        name: small_sae(penalty, seed=ord(name[0]), init_seed=ord(name[0]), **fields)
        for name in names
    }
    for sae in saes.values():
        sae.cfg.metadata.hook_name = HOOK
    return link_saes(saes)


def multi_trainer(saes: dict[str, Any], *, start: int = 0, **fields: Any) -> Any:
    """SAELens' own trainer of several SAEs, on made-up activations."""
    values: dict[str, Any] = {
        "total_training_samples": 300 * 64,
        "train_batch_size_samples": 64,
        "lr": 1e-2,
        "lr_end": 1e-3,
        "dead_feature_window": 5,
        "logger": LoggingConfig(log_to_wandb=False),
    }
    return MultiSAETrainer(
        SAETrainerConfig(**(values | fields)),
        saes,
        dict.fromkeys(saes, HOOK),
        provider(start),
    )


def provider(start: int) -> Iterator[dict[str, torch.Tensor]]:
    rows = random_rows(64 * 40, WIDTH, seed=7).split(64)
    for index in range(start, 10_000):
        yield {HOOK: rows[index % len(rows)]}


def rounds(trainer: Any, count: int, order: list[str] | None = None) -> list[Any]:
    """What ``MultiSAETrainer.fit`` does in ``count`` steps; the losses of each."""
    losses: list[Any] = []
    for batch in islice(trainer.data_provider, count):
        losses.append({})
        for name in order or list(trainer.trainers):
            output = trainer.trainers[name].step(batch[HOOK])
            losses[-1][name] = output.losses[LABEL]
        for each in trainer.trainers.values():
            each.n_training_steps += 1
        trainer.n_training_steps += 1
    return losses


def weights(saes: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {
        f"{name}/{key}": value.clone()
        for name, sae in saes.items()
        for key, value in sae.state_dict().items()
    }


def assert_equal(
    first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]
) -> None:
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


def test_value_and_gradient_are_those_of_the_formula() -> None:
    saes = {name: sae.double() for name, sae in members("a", "b", "c").items()}
    saes["a"].W_dec.data *= torch.linspace(0.3, 3, 24)[:, None]
    for sae in saes.values():
        sae.bind()
    others = [saes["b"].W_dec.detach(), saes["c"].W_dec.detach()]
    assert_gradient(saes["a"], LABEL, lambda rows: oracle.mutual(rows, others))


def test_widths_may_differ() -> None:
    penalty = MutualFeatures(coefficient=1.0, schedule=NO_RAMP)
    saes = link_saes({"a": small_sae(penalty), "b": small_sae(penalty, d_sae=40)})
    expected = {
        "a": float(oracle.mutual(saes["a"].W_dec.detach(), [saes["b"].W_dec])),
        "b": float(oracle.mutual(saes["b"].W_dec.detach(), [saes["a"].W_dec])),
    }
    (losses,) = rounds(multi_trainer(saes), 1)
    for name, value in expected.items():
        assert float(losses[name]) == pytest.approx(value, rel=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 30),
    m=st.integers(1, 30),
    entries=st.integers(1, 400),
    seed=st.integers(0, 99),
)
def test_any_block_finds_the_same_partners(
    n: int, m: int, entries: int, seed: int
) -> None:
    a = Directions.of(random_rows(n, 5, seed=seed).double()).unit
    b = Directions.of(random_rows(m, 5, seed=seed + 100).double()).unit
    found = best_partners(a, b, block_entries=entries)
    assert torch.equal(found.a_to_b, (a @ b.T).argmax(dim=1))
    assert torch.equal(found.b_to_a, (a @ b.T).argmax(dim=0))


@pytest.mark.parametrize("constraint", ["none", "unit_norm"])
def test_everybody_sees_the_peers_of_the_step_before(constraint: str) -> None:
    saes = members("a", "b", "c", coefficient=20.0, decoder_constraint=constraint)
    trainer = multi_trainer(saes)
    for _ in range(5):
        before = {name: sae.W_dec.detach().clone() for name, sae in saes.items()}
        (losses,) = rounds(trainer, 1)
        for name in saes:
            peers = [rows for other, rows in before.items() if other != name]
            expected = 20 * float(oracle.mutual(before[name], peers))
            assert float(losses[name]) == pytest.approx(expected, rel=1e-5)


def test_the_order_of_stepping_changes_nothing() -> None:
    forward = members("a", "b", "c", coefficient=20.0)
    rounds(multi_trainer(forward), 12)
    backward = members("c", "a", "b", coefficient=20.0)
    rounds(multi_trainer(backward), 12)
    changing = members("b", "c", "a", coefficient=20.0)
    trainer = multi_trainer(changing)
    for index in range(12):
        rounds(trainer, 1, order=sorted(changing, reverse=bool(index % 2)))
    expected = weights(forward)
    assert_equal(expected, weights(backward))
    assert_equal(expected, weights(changing))


def test_different_rests_do_not_break_the_link() -> None:
    often = MutualFeatures(coefficient=1.0, schedule=NO_RAMP)
    seldom = MutualFeatures(coefficient=1.0, schedule=NO_RAMP, every=3)
    saes = link_saes({"a": small_sae(seldom), "b": small_sae(often, seed=1)})
    losses = rounds(multi_trainer(saes), 5)
    assert [float(each["a"]) != 0 for each in losses] == [
        True,
        False,
        False,
        True,
        False,
    ]
    assert all(float(each["b"]) > 0 for each in losses)


@pytest.mark.slow
def test_it_raises_mmcs() -> None:
    def similarity(coefficient: float) -> float:
        saes = members("a", "b", coefficient=coefficient)
        rounds(multi_trainer(saes), 150)
        return float(oracle.mmcs(saes["a"].W_dec.detach(), saes["b"].W_dec.detach()))

    assert similarity(50.0) > similarity(0.0) + 0.1


def test_the_default_is_a_ramp_of_100_steps() -> None:
    cfg = MutualFeatures(coefficient=3.0)
    assert cfg.schedule.value(3.0, 0) == 0
    assert cfg.schedule.value(3.0, 50) == 1.5
    assert cfg.schedule.value(3.0, 100) == 3
    saes = members("a", "b", schedule=cfg.schedule)
    losses = rounds(multi_trainer(saes), 2)
    assert float(losses[0]["a"]) == 0
    assert float(losses[1]["a"]) > 0


def test_peers_are_no_part_of_an_sae() -> None:
    saes = members("a", "b")
    rounds(multi_trainer(saes), 2)
    plain = small_sae()
    for name in saes:
        assert [n for n, _ in saes[name].named_parameters()] == [
            n for n, _ in plain.named_parameters()
        ]
        added = set(saes[name].state_dict()) - set(plain.state_dict())
        assert added == {"components.row_floor.held"}
        # the regulariser and the floor of decoder rows
        assert len(list(saes[name].modules())) == len(list(plain.modules())) + 2
    del saes["b"]
    gc.collect()
    with pytest.raises(sr.InputError, match="'b' was linked .* and deleted since"):
        run_steps(small_trainer(saes["a"]), 1)


def test_resumes_exactly(tmp_path: Path) -> None:
    whole = members("a", "b")
    rounds(multi_trainer(whole), 10)
    first = members("a", "b")
    trainer = multi_trainer(first, checkpoint_path=str(tmp_path))
    rounds(trainer, 5)
    trainer.save_checkpoint("half")
    second = members("a", "b")
    again = multi_trainer(second, start=5)
    again.load_checkpoint(tmp_path / "half")
    rounds(again, 5)
    assert_equal(weights(whole), weights(second))


def test_weights_loaded_after_a_forward_pass_are_seen() -> None:
    saes = members("a", "b")
    saes["a"].bind()
    peers = component(saes["a"], LABEL).peers
    before = peers.unit_rows("b", 0)
    other = members("x", "y")["x"]
    saes["b"].load_state_dict(other.state_dict())
    after = peers.unit_rows("b", 0)
    assert not torch.equal(before, after)
    assert torch.equal(after, Directions.of(other.W_dec).unit)


def test_a_lone_sae_is_refused_before_its_first_step() -> None:
    sae = small_sae(MutualFeatures(coefficient=1.0))
    with pytest.raises(sr.InputError, match="linked to no other.*link_saes"):
        run_steps(small_trainer(sae), 1)
    assert sae.step_index == 0
    copied = copy.deepcopy(members("a", "b")["a"])
    with pytest.raises(sr.InputError, match="linked to no other"):
        run_steps(small_trainer(copied), 1)


def test_saes_out_of_step_are_refused() -> None:
    saes = members("a", "b")
    trainer = small_trainer(saes["a"])
    run_steps(trainer, 1)
    with pytest.raises(sr.InputError, match="'b' has completed 0 steps, another 1"):
        run_steps(trainer, 1)


def test_one_that_leaves_is_not_seen_and_the_others_go_on() -> None:
    saes = members("a", "b", "c")
    trainer = multi_trainer(saes)
    rounds(trainer, 2)
    with torch.no_grad():
        saes["c"].W_dec[0, 0] = torch.nan
    # broken, and not yet taken out
    (losses,) = rounds(trainer, 1, order=["c", "a", "b"])
    assert losses["a"].isfinite()
    unlink(saes["c"])
    left = [name for name in saes if name != "c"]
    before = {name: saes[name].W_dec.detach().clone() for name in left}
    (losses,) = rounds(trainer, 1, order=left)
    expected = 2 * float(oracle.mutual(before["a"], [before["b"]]))
    assert float(losses["a"]) == pytest.approx(expected, rel=1e-5)
    unlink(saes["b"])
    (losses,) = rounds(trainer, 1, order=["a"])
    assert float(losses["a"]) == 0
    unlink(small_sae())


def test_saes_of_different_hooks_are_refused() -> None:
    saes = members("a", "b")
    saes["b"].cfg.metadata.hook_name = "blocks.2.hook_resid_post"
    with pytest.raises(sr.InputError, match="expected one hook"):
        rounds(multi_trainer(saes), 1)


def test_a_sparse_step_gets_the_same_penalty() -> None:
    found = [
        rounds(multi_trainer(members("a", "b", sparse_step=mode)), 3)
        for mode in ("always", "never")
    ]
    for sparse, dense in zip(*found, strict=True):
        torch.testing.assert_close(sparse, dense)


def test_link_saes_refuses_what_cannot_be_linked() -> None:
    penalty = MutualFeatures(coefficient=1.0)
    one, two, plain = small_sae(penalty), small_sae(penalty), small_sae()
    with pytest.raises(sr.InputError, match="given 2 SAEs, of which 'a' has"):
        link_saes({"a": one, "b": plain})
    with pytest.raises(sr.InputError, match="the same SAE under two names"):
        link_saes({"a": one, "b": one})
    with pytest.raises(sr.InputError, match="different d_in"):
        link_saes({"a": one, "b": small_sae(penalty, d_in=8)})
    saes = {"a": one, "b": two, "plain": plain}
    assert link_saes(saes) == saes
    assert link_saes(saes) == saes
    with pytest.raises(sr.InputError, match="linked with others already"):
        link_saes({"a": one, "c": small_sae(penalty)})


def test_groups_are_linked_apart() -> None:
    penalty = MutualFeatures(coefficient=1.0)
    saes = {
        f"{group}{seed}": small_sae(*([penalty] if group != "plain" else []))
        for group in ("x", "y", "plain")
        for seed in (0, 1)
    }
    groups = {name: name[:-1] for name in saes}
    link_groups(saes, groups)
    assert component(saes["x0"], LABEL).peers.names == ["x0", "x1"]
    assert component(saes["y1"], LABEL).peers.names == ["y0", "y1"]
    del groups["x1"]
    del saes["x1"]
    with pytest.raises(sr.InputError, match="of which 'x0' has a regulariser"):
        link_groups(saes, groups)
