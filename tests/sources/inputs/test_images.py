"""Images by name, out of folders and data sets; their sides and classes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from saereg_plugin.errors import InputError
from saereg_plugin.sources.inputs import data_from_dataset, open_data
from saereg_plugin.sources.inputs.emoji import variants_of


def test_emoji_variants_are_on_one_side() -> None:
    train, heldout = open_data("emoji", "train"), open_data("emoji", "heldout")
    assert len(train) + len(heldout) == len(open_data("emoji")) == 3655
    assert 250 < len(heldout) < 450
    names = [{data.title(n) for n in range(len(data))} for data in (train, heldout)]
    keys = [{variants_of(name) for name in side} for side in names]
    # flags that are drawn alike share a key that only one of their names gives
    assert keys[0] & keys[1] == set()
    pixels = [
        {data[n].tobytes() for n in range(len(data))} for data in (train, heldout)
    ]
    assert pixels[0] & pixels[1] == set()


def test_emoji_are_labelled_by_subgroup() -> None:
    data = open_data("emoji")
    assert data.labels is not None
    assert len(data.class_names) == 99
    titles = [data.title(n) for n in range(len(data))]
    apple = titles.index("red apple")
    assert data.class_names[int(data.labels[apple])] == "food-fruit"
    picture = np.asarray(data[apple])
    assert picture.shape == (128, 136, 3)
    assert picture[0, 0].tolist() == [255, 255, 255]
    red, green, blue = picture[64, 68].tolist()
    assert red > 150 > green + blue


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("woman firefighter: dark skin tone", "firefighter"),
        ("man: curly hair", "person: light skin tone, beard"),
        ("kiss: man, man", "kiss: person, person, medium skin tone, dark skin tone"),
        ("mermaid", "merman: light skin tone"),
        ("princess", "person with crown"),
        ("women holding hands", "woman and man holding hands: dark skin tone"),
    ],
)
def test_variants_share_a_key(one: str, other: str) -> None:
    assert variants_of(one) == variants_of(other)


def test_other_emoji_share_no_key() -> None:
    names = [
        "flag: France",
        "flag: Spain",
        "keycap: 1",
        "keycap: 2",
        "man dancing",
        "judge",
    ]
    assert len({variants_of(name) for name in names}) == len(names)


def test_mnist_holds_its_test_images_out() -> None:
    train, heldout = open_data("mnist", "train"), open_data("mnist", "heldout")
    assert (len(train), len(heldout)) == (60_000, 10_000)
    assert train.labels is not None
    assert heldout.labels is not None
    assert train.labels[:6].tolist() == [5, 0, 4, 1, 9, 2]
    assert heldout.labels[:6].tolist() == [7, 2, 1, 0, 4, 1]
    assert heldout.labels.bincount().tolist() == [
        *(980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)
    ]
    assert train[0].size == (28, 28)
    assert train.identity() != heldout.identity()


def save(path: Path, colour: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), colour).save(path)


def test_subfolders_are_classes_and_sides(tmp_path: Path) -> None:
    for side, n in (("train", 3), ("val", 1)):
        for kind in ("cat", "dog"):
            for number in range(n):
                save(tmp_path / side / kind / f"{number}.png", "red")
    train = open_data(str(tmp_path), "train")
    heldout = open_data(str(tmp_path), "heldout")
    assert (len(train), len(heldout)) == (6, 2)
    assert train.class_names == ["cat", "dog"]
    assert train.labels is not None
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert heldout.title(1) == "val/dog/0.png"
    before = train.identity()
    save(tmp_path / "train" / "dog" / "3.png", "blue")
    assert open_data(str(tmp_path), "train").identity() != before


def test_a_tenth_is_held_out_and_stays_there(tmp_path: Path) -> None:
    for number in range(120):
        save(tmp_path / f"{number}.png", "red")
    heldout = open_data(str(tmp_path), "heldout")
    names = {heldout.title(n) for n in range(len(heldout))}
    assert 4 <= len(names) <= 22
    assert heldout.labels is None
    for number in range(120, 140):
        save(tmp_path / f"{number}.png", "red")
    more = open_data(str(tmp_path), "heldout")
    assert names <= {more.title(n) for n in range(len(more))}


def test_transparent_grey_and_turned_images_become_rgb(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "a.png")
    Image.new("L", (4, 4), 100).save(tmp_path / "b.png")
    turned = Image.new("RGB", (4, 2))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "c.jpg", exif=exif)
    data = open_data(str(tmp_path))
    assert [data[n].mode for n in range(3)] == ["RGB"] * 3
    assert data[0].getpixel((0, 0)) == (255, 255, 255)
    assert data[1].getpixel((0, 0)) == (100, 100, 100)
    assert data[2].size == (2, 4)


def test_an_unreadable_image_is_named_before_anything_is_read(tmp_path: Path) -> None:
    save(tmp_path / "good.png", "red")
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"Image .*bad\.png' cannot be read"):
        open_data(str(tmp_path))
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "bad.png")
    whole = (tmp_path / "bad.png").read_bytes()
    (tmp_path / "bad.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"Image .*bad\.png' cannot be read"):
        open_data(str(tmp_path))[0]


def test_folders_without_inputs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no image and no audio file"):
        open_data(str(tmp_path))
    save(tmp_path / "a.png", "red")
    with pytest.raises(InputError, match="no input for the split"):
        open_data(
            str(tmp_path),
            "heldout" if len(open_data(str(tmp_path), "train")) else "train",
        )
    (tmp_path / "b.wav").touch()
    with pytest.raises(InputError, match="has images .* and audio files"):
        open_data(str(tmp_path))


def test_misspelt_data_and_sides_are_refused() -> None:
    with pytest.raises(InputError, match="Did you mean 'emoji'"):
        open_data("emojis")
    with pytest.raises(InputError, match="Unknown split 'test'"):
        open_data("emoji", "test")  # type: ignore[arg-type]


class Squares(torch.utils.data.Dataset[Any]):
    """Pairs of an image and a class, of several kinds."""

    classes = ("dark", "light")

    def __init__(self, items: list[Any]) -> None:
        self.items = items
        self.targets = [n % 2 for n in range(len(items))]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> Any:
        return self.items[number], self.targets[number]


def test_a_torch_dataset_gives_images_and_classes() -> None:
    light = torch.full((3, 4, 6), 1.0)
    items = [Image.new("L", (6, 4)), light, (light[:1] * 255).to(torch.uint8)] * 20
    data = data_from_dataset(Squares(items), name="squares", heldout=lambda n: n >= 50)
    assert [data[n].getpixel((0, 0)) for n in range(3)] == [
        (0, 0, 0),
        *[(255,) * 3] * 2,
    ]
    assert data[1].size == (6, 4)
    assert data.class_names == ("dark", "light")
    assert data.labels is not None
    assert data.labels[:4].tolist() == [0, 1, 0, 1]
    heldout = data_from_dataset(
        Squares(items), name="squares", split="heldout", heldout=lambda n: n >= 50
    )
    assert (len(heldout), heldout.title(0)) == (10, "squares, number 50")
    whole = [
        data_from_dataset(Squares(each), name="squares")
        for each in (items, items[::-1])
    ]
    assert whole[0].identity() != whole[1].identity()


def test_the_side_of_each_input_is_in_the_identity() -> None:
    items = [Image.new("L", (2, 2), n) for n in range(20)]
    first, same, other = (
        data_from_dataset(items, name="greys", split="train", heldout=heldout)
        for heldout in (lambda n: n > 9, lambda n: n >= 10, lambda n: n < 10)
    )
    assert first.identity() == same.identity() != other.identity()


def test_other_datasets_are_refused() -> None:
    with pytest.raises(InputError, match="is empty"):
        data_from_dataset([], name="none")
    with pytest.raises(InputError, match="expected a PIL image"):
        data_from_dataset([np.zeros(3)], name="rows")
    images = [Image.new("RGB", (2, 2))] * 3
    with pytest.raises(InputError, match="3 items and 2 labels"):
        data_from_dataset(images, name="few", labels=[0, 1])


def test_missing_packages_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    save(tmp_path / "a.png", "red")
    monkeypatch.setitem(sys.modules, "fontTools", None)
    for name in ("emoji", "mnist", str(tmp_path)):
        with pytest.raises(InputError, match=r"extra 'vision' \(fontTools is not"):
            open_data(name)
