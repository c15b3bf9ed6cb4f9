"""Uploads to a Neuronpedia server on loopback that enforces its limits."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from eval_recipes.cli import app
from eval_recipes.neuronpedia.limits import feature, visible
from eval_recipes.neuronpedia.post import KEY, Server, open_server, post_sources
from eval_recipes.neuronpedia.source import Source
from saereg_plugin.errors import InputError
from tests.eval_recipes.neuronpedia import np_server
from tests.eval_recipes.neuronpedia.conftest import Made
from tests.eval_recipes.neuronpedia.np_server import NeuronpediaServer, serve

PLACE = "smollm2-135m-instruct/2-tiny-release-g-0"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[NeuronpediaServer]:
    monkeypatch.setenv(KEY, np_server.KEY)
    with serve() as running:
        yield running


@pytest.fixture(scope="module")
def source(made: Made) -> Source:
    (found,) = made.sources(sae_ids=["g.0"])
    return found


class Row(dict[str, Any]):
    """A feature that can be referred to weakly."""

    __hash__ = object.__hash__  # type: ignore[assignment]


def post(source: Source, server: NeuronpediaServer, out: Path, batch: int = 64) -> int:
    (done,) = post_sources([source], open_server(server.url), out, batch=batch)
    return done.sent


def test_all_living_latents_arrive_in_batches(
    made: Made, server: NeuronpediaServer, tmp_path: Path
) -> None:
    arguments = ["export", "neuronpedia", str(made.results), "--out", str(tmp_path)]
    arguments += ["--release", str(made.release), "--post", f"{server.url}/"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert np_server.KEY not in result.output
    assert max(server.sizes) == 128
    assert server.models["smollm2-135m-instruct"]["layers"] >= 3
    (source,) = made.sources(sae_ids=["g.0"])
    arrived = server.features[PLACE]
    assert sorted(arrived) == source.living
    assert len(source.living) == 256 - source.n_dead
    assert arrived[7] == feature(source, source.latent(7))
    assert "Shared by 1 of 1 other seeds" in arrived[7]["explanations"][0]["text"]
    sent = sum(server.sizes)
    again = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "Sent 0 latents of g.0" in " ".join(again.output.split())
    assert sum(server.sizes) == sent


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            "400",
            r"with 400: no, \*\*\*\. .*leave the SAE out.*goes on where it stopped",
        ),
        ("401", f"with 401 .*The key is refused; set {KEY}"),
        ("413", "with 413 .*smaller --batch"),
        ("429", "with 429 .*again in 60 seconds"),
        ("500", "with 500 .*Run the same command again"),
        ("cut", "gave no answer to 'feature/upload-batch'.*run the same command again"),
        ("cut after", "gave no answer.*goes on where it stopped"),
    ],
)
def test_a_fault_is_one_line_and_the_same_call_sends_the_rest(
    fault: str,
    message: str,
    source: Source,
    server: NeuronpediaServer,
    tmp_path: Path,
) -> None:
    server.faults = deque(["", fault])
    with pytest.raises(InputError, match=message) as raised:
        post(source, server, tmp_path)
    assert "\n" not in str(raised.value)
    assert np_server.KEY not in str(raised.value)
    arrived = len(server.features[PLACE])
    assert arrived == (128 if fault == "cut after" else 64)
    sent = post(source, server, tmp_path)
    assert sent == len(source.living) - arrived
    assert sorted(server.features[PLACE]) == source.living


def test_a_set_of_another_upload_is_refused(
    source: Source, server: NeuronpediaServer, tmp_path: Path
) -> None:
    post(source, server, tmp_path / "one")
    for _ in range(2):
        with pytest.raises(InputError, match="this folder did not send"):
            post(source, server, tmp_path / "two")


def test_other_content_is_not_mixed_with_what_was_sent(
    made: Made, source: Source, server: NeuronpediaServer, tmp_path: Path
) -> None:
    post(source, server, tmp_path)
    (changed,) = made.sources(sae_ids=["g.0"])
    changed.explanations.clear()  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="was sent to .* with other content"):
        post(changed, server, tmp_path)


def test_a_wrong_key_is_refused_before_anything_is_sent(
    source: Source,
    server: NeuronpediaServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(KEY, "other")
    with pytest.raises(InputError, match="'model/new' with 401"):
        post(source, server, tmp_path)
    assert server.models == {}


def test_key_and_address_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY, raising=False)
    with pytest.raises(InputError, match=f"{KEY} has no usable key"):
        open_server("http://localhost:3000")
    with pytest.raises(InputError, match="expected an address"):
        Server("localhost:3000", "k")
    with pytest.raises(InputError, match="unencrypted"):
        Server("http://neuronpedia.example", "k")
    with pytest.raises(InputError, match="gave no answer"):
        Server("http://127.0.0.1:9", "k").ask("GET", "feature/a/b/1")


@pytest.mark.parametrize(
    "url",
    ["http://[::1", "http://localhost:x", "http://localhost:99999", "http://a b", "é"],
)
def test_an_address_that_is_none_is_one_clear_error(url: str) -> None:
    with pytest.raises(InputError, match="--post is .*expected an address"):
        Server(url, "k")


@pytest.mark.parametrize(
    "url", ["https://me:secret@np.example", "https://np.example/?token=secret"]
)
def test_an_address_with_a_secret_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InputError, match=f"Set the key in {KEY}") as raised:
        Server(url, "k")
    assert "secret" not in str(raised.value)


def test_a_long_answer_shows_no_part_of_the_key() -> None:
    server = Server("http://localhost:3000", "secret-key")
    said = server.said("x" * 295 + " secret-key and more")
    assert "secr" not in said
    assert len(said) == 300


def test_latents_are_made_batch_by_batch(
    source: Source,
    server: NeuronpediaServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held: weakref.WeakSet[Row] = weakref.WeakSet()
    most = 0

    def counted(*given: Any) -> Row:
        nonlocal most
        made = Row(feature(*given))
        held.add(made)
        most = max(most, len(held))
        return made

    monkeypatch.setattr("eval_recipes.neuronpedia.post.feature", counted)
    assert post(source, server, tmp_path, batch=32) == len(source.living)
    assert most <= 64


def test_tokens_that_neuronpedia_cannot_store_are_shown() -> None:
    shown = [visible(text) for text in ("", " ", "a\0b", "\ud800", "é😀")]
    assert shown == ["∅", " ", "a␀b", "?", "é😀"]
