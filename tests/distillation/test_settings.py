"""Parts, groups and sweeps of a distillation, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformer_lens import HookedTransformer

from saereg_plugin.distillation.settings import (
    Distill,
    initial_seed,
    read_distill,
)
from saereg_plugin.errors import InputError
from saereg_plugin.sweeps.config import group_fields
from tests.distillation.tiny import SAE, tiny_distill
from tests.sweeps.tiny import fields, open_source, open_stream


def test_every_cycle_is_a_part_and_so_are_the_matched_saes() -> None:
    settings = tiny_distill(cycles=3)
    assert settings.parts == ["cycle-1", "cycle-2", "cycle-3", "matched"]
    assert settings.groups_in("cycle-1") == {"plain": "distilled"}
    assert list(settings.groups_in("cycle-3")) == [
        *("distilled-3", "random-3", "frequency-3")
    ]
    assert settings.groups_in("matched") == {"matched": "matched"}
    alone = replace(settings, controls=())
    assert alone.parts == ["cycle-1", "cycle-2", "cycle-3"]
    assert list(alone.groups_in("cycle-2")) == ["distilled-2"]


def test_matched_saes_see_the_tokens_of_all_cycles() -> None:
    settings = tiny_distill(cycles=3)
    plain, matched = (settings.sweep_of(p) for p in ("cycle-1", "matched"))
    assert matched.steps == 3 * plain.steps
    assert group_fields(matched)["matched"] == group_fields(plain)["plain"]
    assert matched.seeds == plain.seeds and matched.seed == plain.seed
    assert plain.text_tokens == 0


def test_matched_saes_read_the_text_of_one_cycle_again(
    model: HookedTransformer, cut_model_folder: Path
) -> None:
    settings = tiny_distill(cut_model_folder, cycles=3)
    plain, matched = (settings.sweep_of(p) for p in ("cycle-1", "matched"))
    stream = open_stream(model, plain, prefetch=0)
    for _ in range(plain.steps):
        next(stream)
    read = stream.state_dict()["contexts"] // plain.prompts_per_pass
    source = open_source(model, matched)
    passes = [source.tokens() for _ in range(2 * read + 4)]
    period = next(
        place
        for place in range(1, len(passes))
        if torch.equal(passes[place], passes[0])
    )
    # a cycle fills its buffer to the end of a pass, so that they may differ by a filling
    assert abs(period - read) <= 2
    for place, tokens in enumerate(passes):
        assert torch.equal(tokens, passes[place % period])


def test_a_later_cycle_has_frozen_cores_and_another_order() -> None:
    settings = tiny_distill()
    started = {g: "x/plain@1" for g in settings.groups_in("cycle-2")}
    sweep = settings.sweep_of("cycle-2", started)
    for own in group_fields(sweep).values():
        assert own["mechanics"] == [{"name": "frozen_core"}]
    assert sweep.seed == settings.sweep.seed + 1
    assert sweep.tokens == settings.sweep.tokens
    assert sweep.started_from == started


def test_no_two_cycles_draw_the_same_weights() -> None:
    seeds = {initial_seed(s, c) for s in range(50) for c in range(1, 50)}
    assert len(seeds) == 50 * 49
    assert initial_seed(2**32 - 1, 2) < 2**32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cycles": 1}, "expected 2 cycles or more"),
        ({"score_tokens": 0}, "1 token or more"),
        ({"share": 0.0}, "a share above 0"),
        ({"share": 1.1}, "a share above 0"),
        ({"quantile": -0.1}, "a quantile from 0 to 1"),
        ({"controls": ("randm",)}, "Unknown control 'randm'. Did you mean 'random'"),
        ({"gradient": "logits"}, "gradient='logits'; expected one of"),
    ],
)
def test_settings_that_distil_nothing_are_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        tiny_distill(**changes)


def test_other_sources_and_several_groups_are_refused() -> None:
    settings = tiny_distill()
    arrays = {"kind": "arrays", "path": "x"}
    with pytest.raises(InputError, match="expected a language model"):
        Distill(replace(settings.sweep, source=arrays))
    two = replace(settings.sweep, groups={"a": {}, "b": {}})
    with pytest.raises(InputError, match="Name it with --group"):
        Distill(two)


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(fields(sae=SAE, **changes)), encoding="utf-8")
    return path


def test_the_file_of_a_sweep_is_read(tmp_path: Path) -> None:
    settings = read_distill(written(tmp_path), group="l2", cycles=4)
    assert settings.first is None and settings.cycles == 4
    assert settings.group("distilled", 1) == "plain"
    assert settings.fields["regularizers"][0]["name"] == "weight_penalty"
    assert settings.fields["d_sae"] == SAE["d_sae"]


def test_a_group_must_be_chosen_and_known(tmp_path: Path) -> None:
    path = written(tmp_path)
    with pytest.raises(InputError, match="several groups; expected one of l2, plain"):
        read_distill(path)
    with pytest.raises(InputError, match="no group 'l1'"):
        read_distill(path, group="l1")
