"""The sentence on a group's deaths goes by interval, size, control and firing."""

from __future__ import annotations

from typing import Any

import pytest

from eval_recipes.revival.verdict import verdict
from saereg_plugin.revival.training import Revival

Ends = tuple[float, float | None, float | None]
UP, DOWN, NONE = (0.2, 0.1, 0.3), (-0.2, -0.3, -0.1), (0.0, -0.1, 0.1)


def rows(**figures: Ends) -> list[dict[str, Any]]:
    return [
        {"figure": name, "seed": None, "value": value, "low": low, "high": high}
        for name, (value, low, high) in figures.items()
    ]


def told(own: Ends, over: Ends | None = None, again: float = 0.9, **more: Ends) -> str:
    figures = {"revived_variance_gain": own, "fire_again": (again, again, again)}
    if over is not None:
        figures["variance_gain_over_control"] = over
    return verdict(Revival("l2", None, 4, {}), rows(**figures, **more))


@pytest.mark.parametrize(
    ("own", "word"),
    [
        (UP, "pathological"),
        # without a control: re-seeding alone costs
        (DOWN, "no gain shown"),
        ((0.02, -0.1, 0.1), "no gain shown"),
        ((0.2, None, None), "no gain shown"),
        ((0.0002, 0.0001, 0.0003), "no gain shown"),
        ((-0.0002, -0.0003, -0.0001), "no gain shown"),
    ],
)
def test_without_a_control_it_goes_by_interval_and_size(own: Ends, word: str) -> None:
    sentence = told(own)
    assert sentence.startswith(f"l2: {word}; of 4 dead latents given back to each SAE")
    assert "This test is without a control" in sentence


@pytest.mark.parametrize(
    ("own", "over", "word"),
    [
        (UP, UP, "pathological"),
        # every further latent helps
        (UP, NONE, "no gain shown"),
        (UP, DOWN, "no gain shown"),
        (UP, (0.0002, 0.0001, 0.0003), "no gain shown"),
        # re-seeding alone costs, the control more
        (DOWN, UP, "no gain shown"),
        (DOWN, NONE, "no gain shown"),
        (DOWN, DOWN, "useful"),
    ],
)
def test_with_a_control_the_difference_decides_too(
    own: Ends, over: Ends, word: str
) -> None:
    sentence = told(own, over)
    assert sentence.startswith(f"l2: {word};")
    assert "without a control" not in sentence


@pytest.mark.parametrize("own", [UP, DOWN, NONE])
def test_latents_that_do_not_fire_were_not_tested(own: Ends) -> None:
    for over in (None, own):
        assert told(own, over, again=0.4).startswith("l2: not tested; of 4 dead")
        assert not told(own, over, again=0.5).startswith("l2: not tested")


def test_the_sentence_has_firing_and_cross_entropy() -> None:
    sentence = told(
        UP,
        UP,
        again=0.75,
        revived_loss_gain=(0.03, 0.01, 0.05),
        loss_gain_over_control=(-0.02, -0.04, 0.01),
    )
    assert sentence == (
        "l2: pathological; of 4 dead latents given back to each SAE 75 % [75, 75] fire; they change "
        "the explained variance by +0.2 [+0.1, +0.3] and save +0.03 [+0.01, +0.05] nats a token; minus "
        "the gain of as many more latents of the control, +0.2 [+0.1, +0.3] and -0.02 [-0.04, +0.01] "
        "nats."
    )
