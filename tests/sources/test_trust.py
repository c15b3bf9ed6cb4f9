"""Rules for the language models that a release names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eval_recipes.running.model_cache import ModelCache
from saereg_plugin.errors import InputError
from saereg_plugin.sources.trust import is_inside, require_harmless, require_outside


@pytest.mark.parametrize(
    "given",
    [
        None,
        {},
        {"center_writing_weights": False, "fold_ln": True},
        {"default_padding_side": "left", "default_prepend_bos": None},
        {"first_n_layers": 3, "n_ctx": 512, "n_devices": 2},
    ],
)
def test_harmless_arguments_are_passed_on(given: dict[str, Any] | None) -> None:
    assert require_harmless(given, trusted=False, source="SAE 'a'") == (given or {})


@pytest.mark.parametrize(
    "given",
    [
        {"trust_remote_code": True},
        {"trust_remote_code": False},
        {"revision": "main"},
        {"hf_model": "x"},
        {"tokenizer": {"a": 1}},
        {"fold_ln": 1},
        {"n_ctx": True},
        {"n_ctx": -1},
        {"default_padding_side": "middle"},
        {"cache_dir": "/tmp"},
        [],
        "fold_ln",
    ],
)
def test_anything_else_is_refused(given: Any) -> None:
    with pytest.raises(InputError, match="^SAE 'a' (wants its|has model_from)"):
        require_harmless(given, trusted=False, source="SAE 'a'")


def test_a_trusted_release_decides_itself() -> None:
    given = {"trust_remote_code": True, "revision": "main"}
    assert require_harmless(given, trusted=True, source="x") == given


def test_the_model_cache_passes_nothing_else_to_the_loader() -> None:
    with pytest.raises(InputError, match="which may run code"):
        ModelCache().get(
            "gpt2",
            dtype="float32",
            device="cpu",
            model_kwargs='{"trust_remote_code": true}',
        )


def test_paths_into_the_release_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    release = tmp_path / "release"
    (release / "lm").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "link").symlink_to(release / "lm")
    (release / "out").symlink_to(tmp_path / "outside")
    (tmp_path / "alias").symlink_to(release)
    inside = [
        "release/lm",
        "./release/../release/lm",
        "link",
        "release/out",
        "alias/lm",
    ]
    for path in (*inside, str(release / "lm"), "release"):
        for folder in (release, tmp_path / "alias"):
            assert is_inside(path, folder), path
    for path in ("outside", "gpt2", "release/no-such", "a\0b", None, 5):
        assert not is_inside(path, release)
    require_outside("outside", release, trusted=False, source="x")
    require_outside("release/lm", release, trusted=True, source="x")
    with pytest.raises(InputError, match="a folder inside the release itself"):
        require_outside("link", release, trusted=False, source="x")


def test_an_embedded_model_is_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smollm2-135m-instruct").mkdir()
    require_outside("smollm2-135m-instruct", tmp_path, trusted=False, source="x")
