"""Features of texts from a real model and SAE, and the command from end to end."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from eval_recipes import cli
from eval_recipes.data_order.features import Features, pooled
from eval_recipes.data_order.options import OrderOptions
from eval_recipes.data_order.reading import load_subject, read_all
from eval_recipes.data_order.texts import Texts
from saereg_plugin.errors import InputError
from saereg_plugin.releases.release import Release
from saereg_plugin.sources import models
from tests.eval_recipes.tiny_saes import save_release, tiny_sae
from tests.oracles import data_order_oracle as oracle

WORDS = ("apple", "river", "seven", "of", "the", "running", "blue", "+", "12")


def some_texts(n: int) -> Texts:
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 20, size=n)
    texts = tuple(" ".join(generator.choice(WORDS, size=length)) for length in lengths)
    return Texts(tuple(map(str, range(n))), texts, np.arange(n))


def features_of(release: Release, texts: Texts, options: OrderOptions) -> Features:
    subject = load_subject(str(release.folder), release.ids[0], device="cpu")
    return read_all(subject, texts, options, device="cpu")


@pytest.mark.parametrize("pool", ["mean", "max", "share"])
def test_features_are_those_of_each_text_alone(
    trained_release: Release, pool: str
) -> None:
    texts = some_texts(20)
    found = features_of(trained_release, texts, OrderOptions(pool=pool, most_tokens=16))
    sae = trained_release.load(trained_release.ids[0])
    model = models.load(str(sae.cfg.metadata.model_name)).eval()
    special = torch.tensor(model.tokenizer.all_special_ids)
    for number in (0, 3, 11):
        text = texts.texts[number]
        ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
        tokens = torch.tensor([[model.tokenizer.bos_token_id, *ids][:16]])
        with torch.no_grad():
            _, cache = model.run_with_cache(tokens)
            kept = ~torch.isin(tokens[0], special)
            rows = cache[sae.cfg.metadata.hook_name][0][kept]
            codes = sae.encode(rows)
        assert found.tokens[number] == len(rows)
        np.testing.assert_allclose(found.raw[number], rows.mean(0), atol=2e-4)
        np.testing.assert_allclose(
            found.sae[number].toarray()[0],
            oracle.pooled(codes.tolist(), pool),
            atol=2e-3,
        )


def test_a_text_without_tokens_has_zeros() -> None:
    for pool in ("mean", "max", "share"):
        assert pooled(torch.zeros(0, 3), pool).tolist() == [0, 0, 0]


def test_columns_are_scaled_by_the_training_texts_alone(
    trained_release: Release,
) -> None:
    found = features_of(trained_release, some_texts(30), OrderOptions())
    train, rest = np.arange(20), np.arange(20, 30)
    for kind in ("sae", "raw", "length"):
        own, others, kept = found.columns(kind, train, rest)
        np.testing.assert_allclose(own.std(0), 1)
        assert own.shape == (20, len(kept)) and others.shape == (10, len(kept))
        again = found.columns(kind, train, rest[:1])[0]
        np.testing.assert_array_equal(own, again)
        np.testing.assert_allclose(
            np.asarray(found.columns(kind, train, train)[1].todense())
            if kind == "sae"
            else found.columns(kind, train, train)[1],
            own,
        )


def test_saes_outside_the_residual_stream_are_refused(tmp_path: Path) -> None:
    sae = tiny_sae("lm", "blocks.2.attn.hook_z", torch.zeros(8), 0, by_head=True)
    save_release(tmp_path / "heads", {"a": sae})
    with pytest.raises(InputError, match="'blocks.2.attn.hook_z'.*residual stream"):
        load_subject(str(tmp_path / "heads"), "a", device="cpu")


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Texts whose difficulty is the number of times that one word is there."""
    texts, labels = tmp_path / "texts.jsonl", tmp_path / "labels.jsonl"
    generator = np.random.default_rng(5)
    rows: list[str] = []
    known: list[str] = []
    for number in range(60):
        words = generator.choice(WORDS, size=24)
        count = int((words == "river").sum())
        rows.append(json.dumps({"id": number, "text": " ".join(words)}))
        quality = int("blue" in words[:12].tolist())
        known.append(
            json.dumps({"id": number, "difficulty": count, "quality": quality})
        )
    texts.write_text("\n".join(rows))
    labels.write_text("\n".join(known[:50]))
    return texts, labels


def run(*words: object) -> int:
    """Run the command; return its status."""
    sys.argv = ["saereg-bench", "data", *map(str, words)]
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0)


def test_the_command_writes_an_order(
    trained_release: Release,
    files: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", [])
    texts, labels = files
    words = (texts, "--labels", labels, "--release", trained_release.folder)
    words = (*words, "--sae-id", trained_release.ids[0], "--batch-size", 8)
    words = (*words, "--permutations", 3, "--pool", "share")
    assert run(*words, "--out", tmp_path / "one") == 0
    said = capsys.readouterr().out
    assert "Held-out scores" in said and "tfidf" in said and "difficulty" in said
    assert "difficulty: the SAE reaches a held-out spearman of" in said
    one = pd.read_parquet(tmp_path / "one" / "order.parquet")
    assert len(one) == 60 and one["difficulty"].isna().sum() == 10
    assert run(*words, "--out", tmp_path / "two") == 0
    two = pd.read_parquet(tmp_path / "two" / "order.parquet")
    pd.testing.assert_frame_equal(one, two)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"id": 99, "difficulty": 1}', "the id 99, which no text has"),
        ('{"id": 55, "difficulty": NaN}', "NaN is not JSON"),
        ('{"difficulty": 1}', "has no id"),
    ],
)
def test_bad_labels_are_refused_before_anything_is_loaded(
    files: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    said: str,
) -> None:
    monkeypatch.setattr(sys, "argv", [])
    texts, labels = files
    labels.write_text(labels.read_text() + "\n" + line)
    # there is no such release, which would be refused next
    out = ("--out", tmp_path / "out", "--release", tmp_path / "none")
    assert run(texts, "--labels", labels, *out) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_a_release_of_several_saes_wants_an_id(trained_release: Release) -> None:
    with pytest.raises(InputError, match="has 2 SAEs; expected --sae-id"):
        load_subject(str(trained_release.folder), None, device="cpu")
