"""Choice of cores: by attribution, by firing rate, by chance; and what is left of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saereg_plugin.distillation.cores import Core, promoted, survivors
from saereg_plugin.distillation.ranking import LatentFigures
from saereg_plugin.errors import InputError

FIRES = torch.tensor([5, 0, 9, 1, 7, 0])
SCORES = torch.tensor([1.0, 0.0, 0.5, 6.0, 2.5, 0.0]).double()
FIGURES = LatentFigures(fires=FIRES, scores=SCORES, tokens=10)


def core(latents: list[int], *, frozen: int = 0) -> Core:
    return Core(
        arm="distilled",
        group="sae",
        seed=0,
        latents=tuple(latents),
        frozen=frozen,
        alive=6,
        frozen_alive=min(frozen, 2),
        by_attribution=(1, 5, 0, 9),
        share=0.9,
    )


def test_the_distilled_core_is_the_smallest_that_reaches_the_share() -> None:
    found = promoted("distilled", FIGURES, 0, share=0.85, seed=0)
    assert found.tolist() == [3, 4]
    assert promoted("matched", FIGURES, 9, share=0.86, seed=0).tolist() == [3, 4, 0]


def test_the_frequency_core_has_its_size_by_firing_rate() -> None:
    assert promoted("frequency", FIGURES, 2, share=0.9, seed=0).tolist() == [2, 4]
    # a latent that never fires is in no core
    assert len(promoted("frequency", FIGURES, 6, share=0.9, seed=0)) == 4


def test_the_random_core_is_drawn_among_latents_that_fire() -> None:
    draws = [
        promoted("random", FIGURES, 2, share=0.9, seed=seed) for seed in range(200)
    ]
    counts = torch.bincount(torch.cat(draws), minlength=6)
    assert counts[[1, 5]].tolist() == [0, 0]
    assert all(len(set(draw.tolist())) == 2 for draw in draws)
    # 100 expected each; 3.7 sigma of Binomial(200, 1/2)
    assert (counts[[0, 2, 3, 4]] - 100).abs().max() <= 26
    again = promoted("random", FIGURES, 2, share=0.9, seed=7)
    assert torch.equal(again, draws[7])


def test_without_attribution_there_is_no_core() -> None:
    none = LatentFigures(FIRES, torch.zeros(6).double(), 10)
    with pytest.raises(InputError, match="there is no core"):
        promoted("distilled", none, 0, share=0.9, seed=0)


def test_latents_of_the_frozen_core_come_first_and_are_counted() -> None:
    assert core([7, 0, 3, 2], frozen=3).kept == 2
    assert core([7, 0], frozen=0).kept == 0


def test_the_core_by_attribution_is_looked_at_whatever_was_promoted() -> None:
    for latents in ([7, 0, 3, 2], [4]):
        found = core(latents, frozen=3)
        # latents 1 and 0 of (1, 5, 0, 9); 2 of the 6 that fire are frozen
        assert found.kept_by_attribution == 0.5
        assert found.kept_by_chance == pytest.approx(1 / 3)
    assert core([7], frozen=0).kept_by_attribution == 0


def test_survivors_are_followed_through_the_cycles() -> None:
    first = core([10, 20, 30, 40])
    # places 1 and 3 of the first core (20, 40) are promoted again, at places 0 and 2
    second = core([1, 50, 3], frozen=4)
    # of these only place 2, which was 40; place 1 is a latent of the second cycle
    third = core([2, 1, 60], frozen=3)
    assert survivors([first]) == 4
    assert survivors([first, second]) == 2
    assert survivors([first, second, third]) == 1
    assert survivors([]) == 0


@given(
    st.lists(
        st.lists(st.integers(0, 11), min_size=1, max_size=8, unique=True), max_size=4
    )
)
def test_survivors_are_those_of_a_plain_count(chosen: list[list[int]]) -> None:
    cores = [
        core(latents, frozen=len(chosen[number - 1]) if number else 0)
        for number, latents in enumerate(chosen)
    ]
    # name every latent of every cycle; a frozen one keeps its name
    names: list[object] = [("0", latent) for latent in range(12)]
    always: set[object] = set(names)
    for number, latents in enumerate(chosen):
        taken = [names[latent] for latent in latents]
        always &= set(taken)
        fresh = [(str(number + 1), latent) for latent in range(len(taken), 12)]
        names = [*taken, *fresh]
    assert survivors(cores) == (len(always) if chosen else 0)
