"""Sentence on the deaths of a group, from its gains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from saereg_plugin.revival.training import Revival

LEAST_GAIN = 1e-3
"""Explained variance below which a gain is none, whatever its interval; ours."""
LEAST_FIRING = 0.5
"""Share of the latents given back that must fire for their deaths to be tested; ours."""
PATHOLOGICAL, USEFUL, OPEN = "pathological", "useful", "no gain shown"
NOT_TESTED = "not tested"


def verdict(
    one: Revival,
    rows: Sequence[Mapping[str, Any]],
    *,
    least_gain: float = LEAST_GAIN,
) -> str:
    """
    Return a sentence on the deaths of a group, by the mean gain of its seeds.

    Deaths are pathological if latents that are given back raise the explained variance by
    ``least_gain`` or more, with an interval above 0. With a control, the same must hold of the
    difference from it: any further latent may help. They are useful if both fall likewise;
    without a control this cannot be told, since re-seeding alone costs. If fewer than
    ``LEAST_FIRING`` of them fire, nothing was tested.
    """
    mean = {row["figure"]: row for row in rows if row["seed"] is None}
    again = mean["fire_again"]
    deciding = [mean["revived_variance_gain"]]
    over = mean.get("variance_gain_over_control")
    if over is not None:
        deciding.append(over)
    word = OPEN
    if again["value"] < LEAST_FIRING:
        word = NOT_TESTED
    elif all(_sign(row, least_gain) > 0 for row in deciding):
        word = PATHOLOGICAL
    elif over is not None and all(_sign(row, least_gain) < 0 for row in deciding):
        word = USEFUL
    told = (
        f"{one.group}: {word}; of {one.latents} dead latents given back to each SAE "
        f"{_percent(again)} fire; they change the explained variance by {_shown(deciding[0])}"
        f"{_loss_shown(mean.get('revived_loss_gain'))}"
    )
    if over is None:
        return (
            f"{told}. This test is without a control: any further latent may gain as much, and "
            "re-seeding alone may cost."
        )
    more = mean.get("loss_gain_over_control")
    return (
        f"{told}; minus the gain of as many more latents of the control, {_shown(over)}"
        f"{'' if more is None else f' and {_shown(more)} nats'}."
    )


def _sign(row: Mapping[str, Any], least: float) -> int:
    """Return 1 or -1 if the whole interval is on that side of 0 and the figure counts, else 0."""
    low, high = row["low"], row["high"]
    if low is None or high is None or abs(row["value"]) < least:
        return 0
    return int(low > 0) - int(high < 0)


def _loss_shown(row: Mapping[str, Any] | None) -> str:
    return "" if row is None else f" and save {_shown(row)} nats a token"


def _percent(row: Mapping[str, Any]) -> str:
    share, low, high = (100 * row[name] for name in ("value", "low", "high"))
    return f"{share:.0f} % [{low:.0f}, {high:.0f}]"


def _shown(row: Mapping[str, Any]) -> str:
    if row["low"] is None or row["high"] is None:
        return f"{row['value']:+.2g}"
    return f"{row['value']:+.2g} [{row['low']:+.2g}, {row['high']:+.2g}]"
