"""Explanations from files of Neuronpedia."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from eval_recipes.results.subject import Subject
from eval_recipes.steering.select import explanation_file
from eval_recipes.steering.select.candidates import given_explanations
from eval_recipes.steering.select.explanation_file import (
    import_explanations,
    require_own_source,
)
from saereg_plugin.errors import InputError
from tests.eval_recipes.tiny_saes import D_SAE, save_release, tiny_sae

HOOK = "blocks.2.hook_resid_post"


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    folder = tmp_path_factory.mktemp("explained") / "np-release"
    sae = tiny_sae("smollm2-135m-instruct", HOOK, torch.zeros(8), 0)
    named = tiny_sae("gpt2-small", HOOK, torch.zeros(8), 0)
    named.cfg.metadata.neuronpedia_id = "gpt2-small/2-res-jb"
    return save_release(folder, {"k.8": sae, "named": named})[0]


OWN = "2-np-release-k-8"


def row(index: int, text: str, layer: str = OWN, **more: Any) -> dict[str, Any]:
    place = {"modelId": "smollm2-135m-instruct", "layer": layer, "index": str(index)}
    return {**place, "description": text, **more}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    content = "".join(json.dumps(one) + "\n" for one in rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def texts(path: Path, subject: Subject) -> dict[int, str]:
    found = import_explanations(path, subject).explanations
    assert all(one.score is None for one in found.values())
    return {latent: one.text for latent, one in found.items()}


@pytest.mark.parametrize("name", ["e.jsonl", "batch-0.jsonl.gz"])
def test_lines_of_several_sources_give_those_of_the_sae(
    name: str, subject: Subject, tmp_path: Path
) -> None:
    rows = [row(3, "sea"), row(4, "law", "2-other"), row(3, "later"), row(5, " ")]
    path = write(tmp_path / name, [*rows, row(6, "law\u2028court")])
    assert texts(path, subject) == {3: "sea", 6: "law\u2028court"}


def test_an_sae_is_found_by_the_id_that_sae_lens_knows(
    subject: Subject, tmp_path: Path
) -> None:
    named = named_one(subject)
    rows = [row(1, "a"), {**row(2, "b", "2-res-jb"), "modelId": "gpt2-small"}]
    assert texts(write(tmp_path / "e.jsonl", rows), named) == {2: "b"}


def test_a_feature_and_a_list_of_features_are_read(
    subject: Subject, tmp_path: Path
) -> None:
    place = {"modelId": "gpt2-small", "layer": "9-res-jb", "index": "12"}
    explanations = [
        {"description": "first", "explanationModelName": "gpt-4o-mini"},
        {"description": "second", "explanationModelName": None},
    ]
    feature = {**place, "explanations": explanations, "activations": []}
    path = tmp_path / "feature.json"
    path.write_text(json.dumps(feature))
    # of one source alone, whose name may be another
    found = given_explanations(path, subject)
    assert {j: one.text for j, one in found.explanations.items()} == {12: "first"}
    assert found.explainer == "gpt-4o-mini"
    unexplained = {**feature, "index": "13", "explanations": []}
    path.write_text(json.dumps([unexplained, {**feature, "index": "14"}]))
    assert texts(path, subject) == {14: "first"}


def named_one(subject: Subject) -> Subject:
    """The SAE whose configuration has its id."""
    return Subject(subject.release, "named", "named", 0)


def test_one_source_is_not_taken_for_several_saes(
    subject: Subject, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    both = [subject, named_one(subject)]
    path = write(tmp_path / "e.jsonl", [row(3, "sea")])
    with pytest.raises(InputError, match=f"/{OWN}' alone, and SAE 'named'.*--sae-id"):
        require_own_source(path, both)
    require_own_source(path, [subject])
    assert caplog.records == []
    with caplog.at_level(logging.WARNING):
        require_own_source(
            write(tmp_path / "e.jsonl", [row(3, "sea", "2-x")]), [subject]
        )
    (warned,) = caplog.messages
    assert "/2-x' alone" in warned and f"would be smollm2-135m-instruct/{OWN}" in warned
    require_own_source(
        write(tmp_path / "e.jsonl", [row(3, "sea"), row(4, "law", "2-x")]), both
    )


def test_an_sae_that_has_an_id_takes_no_other_source(
    subject: Subject, tmp_path: Path
) -> None:
    path = write(tmp_path / "e.jsonl", [row(3, "sea")])
    with pytest.raises(InputError, match="1 source, and none is SAE 'named'"):
        import_explanations(path, named_one(subject))


def test_latents_that_the_sae_has_not_are_refused(
    subject: Subject, tmp_path: Path
) -> None:
    path = write(tmp_path / "e.jsonl", [row(3, "sea"), row(D_SAE, "law")])
    with pytest.raises(InputError, match=rf"latents \[{D_SAE}\], but SAE 'k.8' has"):
        given_explanations(path, subject)
    write(path, [row(D_SAE - 1, "law")])
    assert list(given_explanations(path, subject).explanations) == [D_SAE - 1]


def test_an_archive_is_unpacked_within_a_bound(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "e.jsonl.gz", [row(3, "sea" * 1000)])
    monkeypatch.setattr(explanation_file, "_MAX_BYTES", 2000)
    with pytest.raises(InputError, match="unpacked it has more than 2,000 bytes"):
        import_explanations(path, subject)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"not json\n", "cannot be read"),
        (b"[1]", "an entry is no JSON object"),
        (b"{}", "entry 1 lacks a field: 'index'"),
        (b'{"index": "1", "modelId": "m", "layer": "l"}', "lacks a field"),
        (b'{"explanations": 3}', "explanations that are no list"),
        (b'{"explanations": []}', "holds no explanation"),
    ],
)
def test_a_file_of_another_form_is_refused(
    content: bytes, message: str, subject: Subject, tmp_path: Path
) -> None:
    path = tmp_path / "e.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        import_explanations(path, subject)


def test_a_cut_archive_and_other_saes_are_refused(
    subject: Subject, tmp_path: Path
) -> None:
    path = write(tmp_path / "e.jsonl.gz", [row(3, "sea")])
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"e\.jsonl\.gz' cannot be read"):
        import_explanations(path, subject)
    others = [row(3, "sea", "2-a"), row(3, "sea", "2-b")]
    with pytest.raises(InputError, match=f"none is SAE 'k.8'.*/{OWN}"):
        import_explanations(write(tmp_path / "e.jsonl", others), subject)
