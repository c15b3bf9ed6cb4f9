"""The text of a run: the SAEs' own data set where it can be read, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from eval_recipes.registry import RECIPES
from eval_recipes.results.subject import Subject
from eval_recipes.running.context import resolve_dtype
from eval_recipes.running.corpus import choose_corpus
from saereg_plugin.errors import InputError
from saereg_plugin.sources import corpora
from tests.conftest import HOOK_NAME
from tests.eval_recipes.tiny_saes import save_release, tiny_sae


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of the test's own, but for the embedded text."""
    embedded = Path(corpora.ensure("embedded", "heldout")).parent
    folder = tmp_path / "cache" / "corpora"
    folder.mkdir(parents=True)
    (folder / embedded.name).symlink_to(embedded)
    monkeypatch.setenv("SAEREG_CACHE", str(folder.parent))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with 2,000 texts of ten words, and the single split "train"."""
    folder = tmp_path / "texts"
    folder.mkdir()
    texts = [f"{number} " + "word " * 9 for number in range(2000)]
    pd.DataFrame({"text": texts}).to_parquet(folder / "train.parquet")
    return folder


def saes_of(folder: Path, *paths: str | None) -> list[Subject]:
    saes = {
        f"s{seed}": tiny_sae("smollm2-135m-instruct", HOOK_NAME, torch.zeros(8), seed)
        for seed in range(len(paths))
    }
    for sae, path in zip(saes.values(), paths):
        sae.cfg.metadata.dataset_path = path
    return save_release(folder / "own-text", saes)


def chosen(
    subjects: list[Subject],
    *evals: str,
    corpus: str | None = None,
    heldout_tokens: int = 500,
) -> tuple[str, str]:
    names = evals or ("core",)
    return choose_corpus(names, subjects, corpus, heldout_tokens=heldout_tokens)


def test_the_saes_own_text_is_read_and_said(tmp_path: Path, data: Path) -> None:
    subjects = saes_of(tmp_path, str(data), str(data))
    name, said = chosen(subjects)
    assert name == str(data)
    assert "own data set: the last 200 rows of" in said
    assert "training has read them if it read that far" in said

    pd.DataFrame({"text": ["a text of six words or so"] * 300}).to_parquet(
        data / "validation.parquet"
    )
    _, said = chosen(subjects)
    assert f"the first 300 rows of the split 'validation' of {str(data)!r}" in said


def test_saes_of_the_embedded_text_are_evaluated_on_its_held_out_part(
    tmp_path: Path,
) -> None:
    subjects = saes_of(tmp_path, "embedded", corpora.ensure("embedded"))
    name, said = chosen(subjects)
    assert name == "embedded"
    assert said == (
        "Text, the SAEs' own data set: 10,000 held-out texts of 'embedded'."
    )


@pytest.mark.usefixtures("offline")
def test_a_text_that_cannot_be_read_is_said_and_the_embedded_one_taken(
    tmp_path: Path,
) -> None:
    name, said = chosen(saes_of(tmp_path, "some-organisation/some-texts"))
    assert name == "embedded"
    assert "The dataset 'some-organisation/some-texts' is neither embedded" in said
    assert "\n" not in said and "--corpus names another text" in said


def test_no_text_two_texts_or_a_short_one_give_the_embedded_one(
    tmp_path: Path, data: Path
) -> None:
    for number, (paths, reason) in enumerate(
        (
            ((None,), "The SAEs name no data set"),
            ((str(data), "embedded"), "trained on different data sets"),
        )
    ):
        name, said = chosen(saes_of(tmp_path / str(number), *paths))
        assert name == "embedded" and reason in said
    subjects = saes_of(tmp_path / "short", str(data))
    name, said = chosen(subjects, heldout_tokens=10**6)
    assert name == "embedded" and "fewer than 1,000,000 tokens" in said


def test_tokens_are_no_text_for_evaluations_that_show_it(
    tmp_path: Path, data: Path
) -> None:
    rows = pd.DataFrame({"input_ids": [list(range(64))] * 2000})
    rows.to_parquet(data / "train.parquet")
    subjects = saes_of(tmp_path, str(data))
    assert chosen(subjects)[0] == str(data)
    name, said = chosen(subjects, "core", "steering")
    assert name == "embedded" and "holds tokens, but steering reads text" in said


def test_a_corpus_that_is_named_is_read_or_refused(tmp_path: Path, data: Path) -> None:
    subjects = saes_of(tmp_path, str(data))
    assert chosen(subjects, corpus="embedded") == (
        "embedded",
        "Text: 10,000 held-out texts of 'embedded'.",
    )
    with pytest.raises(InputError, match="'./no-such' does not exist"):
        chosen(subjects, corpus="./no-such")


def test_nothing_is_said_where_no_text_is_read(tmp_path: Path, data: Path) -> None:
    assert chosen(saes_of(tmp_path, str(data)), "vocabulary") == ("embedded", "")


def test_the_automatic_data_type_of_a_cpu_is_float32() -> None:
    assert resolve_dtype("auto", "cpu") == resolve_dtype("auto", "mps") == "float32"
    assert resolve_dtype("bfloat16", "cpu") == "bfloat16"


def test_evaluations_that_show_text_read_it() -> None:
    from eval_recipes.registry import load_evaluation

    for name in RECIPES:
        evaluation = load_evaluation(name)
        assert evaluation.reads_text or not evaluation.shows_text
