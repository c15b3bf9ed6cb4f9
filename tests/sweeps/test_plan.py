"""Memory, disk and names of a sweep, by arithmetic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from saereg_plugin import machine
from saereg_plugin.errors import InputError
from saereg_plugin.metrics.born_dead import born_dead_by_topk
from saereg_plugin.sources.hook_shapes import model_facts, require_context
from saereg_plugin.sweeps import SweepConfig, expand, release_name
from saereg_plugin.sweeps.config import MAX_SAES, sae_ids
from saereg_plugin.sweeps.plan import (
    disk_of,
    memory_of,
    plan_sweep,
    predict_born_dead,
    require_disk,
    required_memory,
)
from saereg_plugin.sweeps.source import with_source
from tests.oracles import death_oracle as oracle
from tests.sweeps.tiny import BATCH, D_IN, SAE, STEPS, tiny_sweep

WEIGHTS = 2 * D_IN * 128
"""Encoder and decoder of one SAE of ``tiny_sweep``, which has four."""
PARAMETERS = 162_985_152
"""Of the embedded model under TransformerLens, with separate embeddings."""


def test_sizes_of_the_model_are_those_of_the_loaded_one(model_name: str) -> None:
    facts = model_facts(model_name)
    assert (facts.context_size, facts.parameters) == (8192, PARAMETERS)
    require_context(model_name, 8192)
    with pytest.raises(InputError, match="context_size=8193 .* at most 8192 tokens"):
        require_context(model_name, 8193)


def test_memory_and_disk_are_counted(model_name: str) -> None:
    sweep = tiny_sweep(model=model_name)
    sweep, facts = with_source(sweep)
    members = expand(sweep, facts)
    memory = memory_of(sweep, members, facts)
    assert memory.saes == 4 * (3 * 4 * WEIGHTS + WEIGHTS)
    assert memory.buffer == 2 * 4 * BATCH * D_IN * 4
    assert memory.model == 4 * PARAMETERS + 4 * 64 * D_IN * 4
    checkpoint = 3 * 4 * 4 * WEIGHTS + 2 * BATCH * D_IN * 4
    assert disk_of(sweep, members) == 2 * checkpoint
    once = tiny_sweep(model=model_name, checkpoint_every=STEPS // 2)
    assert disk_of(once, members) == checkpoint + 4 * 4 * WEIGHTS
    never = tiny_sweep(model=model_name, checkpoint_every=STEPS)
    assert disk_of(never, members) == 4 * 4 * WEIGHTS
    assert required_memory(sweep, members, facts) == memory
    averaged = tiny_sweep(
        model=model_name, sae={**SAE, "mechanics": [{"name": "weight_ema"}]}
    )
    copied = expand(averaged, facts)
    assert memory_of(averaged, copied, facts).saes == memory.saes + 4 * 4 * WEIGHTS
    more = disk_of(averaged, copied) - disk_of(sweep, members)
    assert more == 2 * 4 * 4 * WEIGHTS


@pytest.mark.usefixtures("model_name")
def test_a_full_disk_is_refused_before_training(tmp_path: Path) -> None:
    sweep = tiny_sweep(sae={**SAE, "d_sae": 2**30})
    with pytest.raises(
        InputError, match=r"at least [0-9,.]+ GiB on the disk of '.*new'"
    ):
        require_disk(sweep, expand(sweep), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_memory_of_this_machine_is_at_most_what_it_has() -> None:
    here = machine.memory_bytes(torch.device("cpu"))
    assert 2**28 < here < 2**50


def test_more_memory_than_the_machine_has_is_refused() -> None:
    cpu = torch.device("cpu")
    machine.require_memory("This", 1, cpu)
    with pytest.raises(InputError, match="This needs at least 1,048,576.0 GiB .*cpu"):
        machine.require_memory("This", 1 << 50, cpu)


def test_the_limit_of_the_process_counts() -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    less = machine.memory_bytes(torch.device("cpu")) - 2**20
    resource.setrlimit(resource.RLIMIT_AS, (less, hard))
    try:
        assert machine.memory_bytes(torch.device("cpu")) == less
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_the_name_is_the_folders_unless_given(tmp_path: Path) -> None:
    assert release_name(tiny_sweep(), tmp_path / "run", None) == "run"
    assert release_name(tiny_sweep(), tmp_path / ".run", "lab/run") == "lab/run"


@pytest.mark.parametrize(
    ("folder", "name", "words"),
    [
        (".run", None, "begins with a dot.*Give another one with --name"),
        ("run\udcff", None, "is no text in UTF-8"),
        ("run", "", "is empty"),
        ("run", "a/../b", "one of dots alone"),
        ("run", "gpt2-small-res-jb", "is that of a public release"),
        ("gpt2-small-res-jb", None, "is that of a public release.*--name"),
        ("run", "n" * 200, "have 2[0-9]+ bytes together"),
    ],
)
def test_names_that_results_could_not_have_are_refused(
    folder: str, name: str | None, words: str, tmp_path: Path
) -> None:
    sweep = tiny_sweep(groups={"g" * 30: {}})
    with pytest.raises(InputError, match=words):
        release_name(sweep, tmp_path / folder, name)


def test_as_many_saes_as_are_allowed_are_expanded() -> None:
    values: dict[str, Any] = {"groups": {"a": {}}, "grid": {"k": [1, 2]}}
    assert (
        len(sae_ids(tiny_sweep(**values, seeds=list(range(MAX_SAES // 2))))) == MAX_SAES
    )
    with pytest.raises(InputError, match=r"has 4,098 SAEs \(1 groups, 2 points"):
        tiny_sweep(**values, seeds=list(range(MAX_SAES // 2 + 1)))


def test_whole_numbers_of_other_types_become_ints() -> None:
    numpy = pytest.importorskip("numpy")
    sweep: SweepConfig = tiny_sweep(
        seeds=[numpy.int64(3), 4.0], tokens=numpy.int32(3 * BATCH), lr=1
    )
    assert (sweep.seeds, type(sweep.seeds[0])) == ([3, 4], int)
    assert (sweep.tokens, type(sweep.tokens)) == (3 * BATCH, int)


def test_a_plan_predicts_the_latents_that_start_dead(tmp_path: Path) -> None:
    centred = {"b_dec_init": "geometric_median"}
    sweep = tiny_sweep(groups={"plain": {}, "centred": centred}, seeds=[0])
    plain, other = plan_sweep(sweep, tmp_path).born_dead
    assert (plain.group, plain.centred, other.group, other.centred) == (
        *("plain", False),
        *("centred", True),
    )
    assert plain.gamma == other.gamma > 0
    assert plain.published == born_dead_by_topk(plain.gamma, k=8, d_sae=128)
    assert plain.share > plain.published
    assert not other.is_severe


def test_gamma_of_a_plan_is_that_of_the_activations_by_point() -> None:
    (member, *_) = expand(tiny_sweep(seeds=[0]))
    rows = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    rows[:, 0] += 30.0
    (found, *_) = predict_born_dead([member], {member.point: rows})
    expected = oracle.gamma(oracle.layer_norm(rows.double().tolist()))
    assert found.gamma == pytest.approx(expected)
    assert found.is_severe
