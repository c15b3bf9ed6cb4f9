"""Which SAEs differ only in seed: by expression and by file."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from saereg_plugin.errors import InputError
from saereg_plugin.releases.groups import Membership, group_saes

IDS = ["k32/seed0/final", "k32/seed12/final", "k64/seed0/final", "other"]


@pytest.mark.parametrize(
    ("expression", "members"),
    [
        (None, {sae_id: (sae_id, None) for sae_id in IDS}),
        (
            "/seed(?P<seed>[0-9]+)",
            {
                IDS[0]: ("k32/final", 0),
                IDS[1]: ("k32/final", 12),
                IDS[2]: ("k64/final", 0),
            },
        ),
        (
            "(?P<group>k[0-9]+)/seed(?P<seed>[0-9]+)",
            {IDS[0]: ("k32", 0), IDS[1]: ("k32", 12), IDS[2]: ("k64", 0)},
        ),
        ("k64/seed(?P<seed>0)/final$", {IDS[2]: ("", 0)}),
    ],
)
def test_expression(expression: str | None, members: dict[str, Membership]) -> None:
    assert group_saes(IDS, expression) == members


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("seed(?P<seed>[0-9]+", "is no regular expression: missing ), unterminated"),
        ("seed([0-9]+)", "does not say where the seed is; expected a named group"),
        ("(?P<seed>k)", "finds the seed 'k' in 'k32/seed0/final'; expected digits."),
        (
            "trainer_(?P<seed>[0-9]+)",
            "matches none of the 4 SAEs, for example 'k32/seed0/final'.",
        ),
    ],
)
def test_unusable_expression_is_quoted(expression: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        group_saes(IDS, expression)
    assert repr(expression) in str(caught.value)


def test_expression_that_takes_exponential_time_ends() -> None:
    started = time.monotonic()
    with pytest.raises(InputError, match="takes over 2 seconds on 'aaa.*YAML file"):
        group_saes(["a" * 80] * 50, "^((a|aa)+)+(?P<seed>[0-9])$")
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("sae_id", ["k\u0661", f"k{'1' * 19}"])
def test_seed_is_at_most_18_ascii_digits(sae_id: str) -> None:
    with pytest.raises(InputError, match="expected digits. At most 18"):
        group_saes([sae_id], "k(?P<seed>.+)")


def test_optional_seed_that_matched_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="expected digits"):
        group_saes(["k32"], "k32(?P<seed>[0-9]+)?x?")


def test_yaml_file_names_group_and_seed(tmp_path: Path) -> None:
    path = tmp_path / "groups.yaml"
    path.write_text(
        "k32/seed0/final: {group: narrow, seed: 0}\nother: {group: narrow, seed: 7}\n"
    )
    assert group_saes(IDS, str(path)) == {
        "k32/seed0/final": ("narrow", 0),
        "other": ("narrow", 7),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a]", "must map SAE ids to {group: ..., seed: ...}"),
        (
            "k32/seed0/finl: {group: a, seed: 0}",
            "names the SAE 'k32/seed0/finl'. Did you mean 'k32/seed0/final'?",
        ),
        ("other: {group: a}", "'other' has {'group': 'a'}; expected {group: name,"),
        ("other: {group: a, seed: x}", "expected {group: name, seed: number}"),
        ("other: {group: a, seed: 1.5}", "expected {group: name, seed: number}"),
        ("other: {group: a, seed: true}", "expected {group: name, seed: number}"),
        ("other: {group: a, seed: 1, sed: 2}", "expected {group: name, seed: number}"),
        ("other: {group: null, seed: 1}", "the group of 'other' is None"),
        ("other: {group: ../x, seed: 1}", "the group of 'other' '../x' begins with"),
        ("other: {group: a, seed: 1}\nother: {group: b, seed: 1}", "occurs twice"),
        ("other: 3", "'other' has 3; expected {group: name, seed: number}"),
        ("{", "is no YAML"),
        (None, "cannot be read (No such file or directory)"),
    ],
)
def test_unusable_yaml_is_named(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "groups.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        group_saes(IDS, str(path))
    assert str(path) in str(caught.value)
