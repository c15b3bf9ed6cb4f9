"""Text by name: what is in it, what is held out, what is refused."""

from __future__ import annotations

import functools
import shutil
import time
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import datasets
import pandas as pd
import pytest

from saereg_plugin.errors import InputError
from saereg_plugin.files import sha256
from saereg_plugin.sources import corpora, rows


@pytest.fixture(scope="module")
def train() -> list[str]:
    return corpora.load(corpora.EMBEDDED)["text"]


@pytest.fixture(scope="module")
def heldout() -> list[str]:
    return corpora.load(corpora.EMBEDDED, "heldout")["text"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("SAEREG_CACHE", str(folder))
    return folder


@pytest.fixture
def folder(tmp_path: Path, heldout: list[str]) -> Path:
    """Real text in a folder, split by the names of its files."""
    data = tmp_path / "data"
    data.mkdir()
    pd.DataFrame({"text": heldout[:50], "n": range(50)}).to_parquet(
        data / "train.parquet"
    )
    pd.DataFrame({"text": heldout[50:60], "n": range(10)}).to_parquet(
        data / "test.parquet"
    )
    return data


def test_embedded_texts_are_distinct_and_held_out(
    train: list[str], heldout: list[str]
) -> None:
    assert len(heldout) == corpora.HELD_OUT_TEXTS
    assert len(train) > 280_000
    everything = [*train, *heldout]
    assert len(set(everything)) == len(everything)
    assert all(text and text == text.strip() for text in everything)
    assert sum(map(len, everything)) > 100_000_000


def test_splits_are_alike(train: list[str], heldout: list[str]) -> None:
    mean = [sum(map(len, texts)) / len(texts) for texts in (train, heldout)]
    assert mean[0] == pytest.approx(mean[1], rel=0.1)


@pytest.mark.parametrize("split", ["train", "heldout"])
@pytest.mark.parametrize("streaming", [False, True])
def test_opens_as_saelens_opens_it(split: corpora.Split, streaming: bool) -> None:
    rows = datasets.load_dataset(
        corpora.ensure("embedded", split),
        split="train",
        streaming=streaming,
        trust_remote_code=True,
    )
    assert next(iter(rows)) == corpora.load(corpora.EMBEDDED, split)[0]


def test_cached_text_opens_quickly() -> None:
    corpora.load(corpora.EMBEDDED)
    start = time.monotonic()
    corpora.load(corpora.EMBEDDED)
    assert time.monotonic() - start < 2


@pytest.mark.slow
def test_a_damaged_corpus_is_redone_and_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Path(corpora.ensure("embedded", "heldout"))
    copy = shutil.copytree(first.parent, tmp_path / "corpora" / first.parent.name)
    content = bytearray((first / "train.parquet").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "heldout" / "train.parquet").write_bytes(content)
    monkeypatch.setenv("SAEREG_CACHE", str(tmp_path))

    assert corpora.ensure("embedded", "heldout") == str(copy / "heldout")
    for split in ("train", "heldout"):
        file = Path(split, "train.parquet")
        assert sha256(copy / file) == sha256(first.parent / file)


@pytest.mark.parametrize("damage", ["text", "header", "info"])
def test_a_damaged_copy_of_the_text_is_said_and_made_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    heldout: list[str],
    damage: str,
) -> None:
    """``datasets`` reads its own copy of a parquet file and never checks it."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    opened = corpora.load(corpora.EMBEDDED, "heldout")
    arrow = Path(opened.cache_files[0]["filename"])
    assert arrow.is_relative_to(tmp_path)
    content = arrow.read_bytes()
    if damage == "text":
        place = content.index(heldout[5000].encode())
        content = content[:place] + b"?" + content[place + 1 :]
        arrow.write_bytes(content)
    elif damage == "header":
        arrow.write_bytes(bytes(64) + content[64:])
    else:
        (arrow.parent / "dataset_info.json").write_text("{")

    path = corpora.ensure("embedded", "heldout")
    assert "is damaged; it is built again" in caplog.text
    again = datasets.load_dataset(path, split="train")
    assert again["text"] == heldout
    caplog.clear()
    assert corpora.load(corpora.EMBEDDED, "heldout")["text"] == heldout
    assert caplog.text == ""


def test_a_copy_that_the_system_cannot_read_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    opened = corpora.load(corpora.EMBEDDED, "heldout")
    arrow = Path(opened.cache_files[0]["filename"])
    info = arrow.with_name("dataset_info.json")
    info.unlink()
    info.mkdir()
    with pytest.raises(IsADirectoryError):
        corpora.ensure("embedded", "heldout")
    assert arrow.is_file()


def test_a_folder_is_opened_as_it_is(folder: Path, heldout: list[str]) -> None:
    assert corpora.ensure(str(folder)) == str(folder)
    assert corpora.load(str(folder))["text"] == heldout[:50]


@pytest.mark.usefixtures("cache")
def test_a_folders_test_split_is_held_out(folder: Path, heldout: list[str]) -> None:
    path = corpora.ensure(str(folder), "heldout")
    rows = datasets.load_dataset(path, split="train")
    assert rows["text"] == heldout[50:60]
    assert rows.column_names == ["text"]
    streamed = corpora.load(str(folder), "heldout", streaming=True)
    assert [row["text"] for row in streamed] == heldout[50:60]

    pd.DataFrame({"text": heldout[60:63]}).to_parquet(folder / "validation.parquet")
    assert corpora.load(str(folder), "heldout")["text"] == heldout[60:63]


def _without_train(folder: Path) -> None:
    (folder / "test.parquet").unlink()
    (folder / "data").mkdir()
    (folder / "train.parquet").rename(folder / "data" / "b-00000-of-00001.parquet")


def _without_text(folder: Path) -> None:
    (folder / "test.parquet").unlink()
    pd.DataFrame({"body": ["a"]}).to_parquet(folder / "train.parquet")
    shutil.copy(folder / "train.parquet", folder / "test.parquet")


def _truncated(folder: Path) -> None:
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes()[:100])


def _empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            _without_train,
            "has the splits 'b'; expected 'validation', 'test', 'train'",
        ),
        (
            _without_text,
            "has the columns 'body'; expected one of 'tokens', 'input_ids', 'text'",
        ),
        (_truncated, "cannot be opened ("),
        (_empty, "cannot be opened (EmptyDatasetError"),
    ],
)
def test_unusable_folders_are_refused(
    folder: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(folder)
    with pytest.raises(InputError) as error:
        corpora.ensure(str(folder), "heldout")
    assert message in str(error.value)
    assert repr(str(folder)) in str(error.value)


def test_what_is_no_folder_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="is a file; expected a folder"):
        corpora.ensure(str(folder / "train.parquet"))
    with pytest.raises(InputError, match=r"Corpus folder '\./nowhere' does not exist"):
        corpora.ensure("./nowhere")
    with pytest.raises(
        InputError, match="Unknown split 'test'; expected 'train' or 'heldout'"
    ):
        corpora.ensure("embedded", "test")  # pyright: ignore[reportArgumentType]


@pytest.mark.usefixtures("offline")
def test_a_hub_corpus_is_refused_in_seconds_without_a_hub() -> None:
    start = time.monotonic()
    with pytest.raises(InputError) as error:
        corpora.ensure("some-organisation/some-texts")

    assert time.monotonic() - start < 10
    assert "The dataset 'some-organisation/some-texts' is neither embedded" in str(
        error.value
    )
    assert "'embedded' works offline" in str(error.value)


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_of_a_corpus_with_only_a_train_split_the_last_rows_are_held_out(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpora, "HELD_OUT_TEXTS", 10)
    data = tmp_path / "data"
    data.mkdir()
    texts = [f"text {number}" for number in range(107)]
    for number, (start, end) in enumerate([(0, 60), (60, 104), (104, 107)]):
        part = pd.DataFrame({"n": range(start, end), "text": texts[start:end]})
        file = data / f"train-0000{number}-of-00003.{ending}"
        if ending == "parquet":
            part.to_parquet(file, row_group_size=4)
        else:
            part.to_json(file, orient="records", lines=True)
    found = corpora.held_out(str(data))
    assert (found.split, found.column, found.rows) == ("train", "text", 10)
    assert corpora.load(str(data), "heldout")["text"] == texts[-10:]
    # the order in which training reads them
    assert corpora.load(str(data))["text"] == texts


@pytest.mark.usefixtures("cache")
def test_of_a_short_train_split_a_tenth_is_held_out(
    folder: Path, heldout: list[str]
) -> None:
    (folder / "test.parquet").unlink()
    assert corpora.load(str(folder), "heldout")["text"] == heldout[45:50]
    pd.DataFrame({"text": ["alone"]}).to_parquet(folder / "train.parquet")
    assert corpora.load(str(folder), "heldout")["text"] == ["alone"]


_CARD = """---
configs:
- config_name: default
  data_files: train.csv
  sep: "|"
---
"""


@pytest.mark.usefixtures("cache")
def test_the_last_rows_are_read_as_the_data_set_says(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(_CARD)
    lines = [f"{number}|one, two {number}" for number in range(20)]
    (tmp_path / "train.csv").write_text("\n".join(["n|text", *lines]))
    assert corpora.load(str(tmp_path), "heldout")["text"] == [
        "one, two 18",
        "one, two 19",
    ]


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address of a server of its files."""
    folder = tmp_path / "web"
    folder.mkdir()
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.usefixtures("cache")
def test_a_large_file_of_a_server_is_not_fetched_whole_for_its_last_rows(
    tmp_path: Path, web: tuple[Path, str]
) -> None:
    folder, address = web
    texts = pd.DataFrame({"text": [f"text {number}" for number in range(50)]})
    texts.to_json(folder / "train.jsonl", orient="records", lines=True)
    data = tmp_path / "data"
    data.mkdir()
    card = _CARD.replace("train.csv", f"{address}/train.jsonl").replace(
        '  sep: "|"\n', ""
    )
    (data / "README.md").write_text(card)
    with pytest.raises(InputError, match="no parquet file, so that all of its"):
        rows.last_values(str(data), "text", 10, most_bytes=100)
    assert corpora.held_out(str(data)).rows == 5


@pytest.mark.usefixtures("cache")
def test_no_script_of_a_data_set_runs(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    ran = tmp_path / "ran"
    (data / "data.py").write_text(f"open({str(ran)!r}, 'w')")
    with pytest.raises(InputError, match="cannot be opened"):
        corpora.ensure(str(data), "heldout")
    assert not ran.exists()


def test_a_folder_of_the_embedded_texts_has_their_name(tmp_path: Path) -> None:
    for split in ("train", "heldout"):
        assert corpora.own_name(corpora.ensure("embedded", split)) == "embedded"
    for name in (str(tmp_path / "train"), "owner/name", "embedded"):
        assert corpora.own_name(name) == name
