"""Examples of latents on images, clips and arrays, against plain loops."""

from __future__ import annotations

import gc
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from weakref import ref

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import saereg_plugin as sr
from eval_recipes.examples.inputs import ROWS, InputTally, RowGrid
from eval_recipes.examples.main import ExamplesEvaluation
from eval_recipes.examples.options import ExamplesEvalConfig
from eval_recipes.examples.pictures import MOST_PIXELS, to_picture
from eval_recipes.examples.reader import (
    EVAL,
    InputExample,
    LatentExamples,
    read_examples,
)
from eval_recipes.examples.show import latent_lines, show_latent
from eval_recipes.examples.table import chosen_examples
from eval_recipes.neuronpedia.source import open_sources
from eval_recipes.results.files import read_result, result_path
from eval_recipes.results.sidecar import damaged_table
from eval_recipes.running.context import RunContext
from eval_recipes.running.run import run_evals
from saereg_plugin.errors import InputError
from saereg_plugin.sources.inputs import Clip
from saereg_plugin.sources.modules import Prepared, load_module
from tests.eval_recipes.tiny_saes import D_SAE, save_release, tiny_sae

IMAGES, D_IN = 24, 8
OPTIONS: dict[str, Any] = {"top_examples": 3, "band_examples": 2, "n_resamples": 20}


class Pictures:
    """Photos of random colours with names and classes."""

    name = "photos"
    class_names = ("red", "green")
    labels = torch.arange(IMAGES) % 2

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, number: int) -> Image.Image:
        pixels = np.random.default_rng(number).integers(0, 255, (150, 150, 3))
        return Image.fromarray(pixels.astype(np.uint8))

    def title(self, number: int) -> str:
        return f"photo {number}"


class Clips(Pictures):
    """Clips of which each is longer than the one before."""

    name = "clips"

    def __getitem__(self, number: int) -> Any:
        noise = np.random.default_rng(number).normal(size=100 * (number + 1))
        return Clip(noise.astype(np.float32), 100)


def picture_source() -> sr.ModuleSource:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, D_IN, 30, stride=30))

    def prepare(images: Sequence[Any]) -> Tensor:
        values = np.stack([np.asarray(image) for image in images]) / 255
        return torch.tensor(values, dtype=torch.float32).permute(0, 3, 1, 2)

    return sr.ModuleSource(
        network, Pictures(), point="0", rows="patches", prepare=prepare
    )


def clip_source() -> sr.ModuleSource:
    torch.manual_seed(0)
    window = 100 * IMAGES

    class Frames(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Linear(5, D_IN)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x.view(len(x), -1, 5))

    def prepare(clips: Sequence[Any]) -> Prepared:
        x = torch.zeros(len(clips), window)
        for row, clip in zip(x, clips, strict=True):
            row[: len(clip.waveform)] = torch.from_numpy(clip.waveform)
        share = torch.tensor([len(clip.waveform) / window for clip in clips])
        return Prepared({"x": x}, share)

    return sr.ModuleSource(
        Frames(), Clips(), point="conv", rows="frames", prepare=prepare
    )


def evaluated(folder: Path, source: sr.ModuleSource) -> RunContext:
    (point,) = source.points
    sae = tiny_sae("module", point, torch.zeros(D_IN), 0)
    for name, value in source.metadata(point).items():
        setattr(sae.cfg.metadata, name, value)
    subjects = save_release(folder / "release", {"sae": sae})
    context = RunContext(
        subjects, folder / "out", source=source, options={EVAL: OPTIONS}
    )
    assert run_evals([EVAL], context).failures == []
    return context


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> RunContext:
    return evaluated(tmp_path_factory.mktemp("images"), picture_source())


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> RunContext:
    return evaluated(tmp_path_factory.mktemp("clips"), clip_source())


def activations(context: RunContext) -> tuple[Tensor, Tensor]:
    """Activations of every latent, [inputs, rows, d_sae], and which rows are kept."""
    source, sae = context.source, context.subjects[0].load()
    assert isinstance(source, sr.ModuleSource)
    (point,) = source.points
    passes = list(source.passes(torch.arange(IMAGES)))
    x = torch.cat([one.activations[point] for one in passes])
    keep = torch.cat([one.keep for one in passes])
    with torch.no_grad():
        z = sae.encode(x.flatten(0, 1)).view(*keep.shape, -1)
    return z * keep[..., None], keep


def busiest(context: RunContext) -> LatentExamples:
    opened = read_examples(context.out)
    return opened.latent(int(opened.scalars()["active"].argmax()))


def shown(latent: LatentExamples) -> list[InputExample]:
    return [one for one in latent.examples if isinstance(one, InputExample)]


def test_top_and_lowest_are_the_inputs_of_the_largest_and_smallest_peaks(
    images: RunContext,
) -> None:
    z, _ = activations(images)
    opened = read_examples(images.out)
    for index in range(D_SAE):
        latent = opened.latent(index)
        peaks = z[..., index].amax(1)
        on = int((peaks > 0).sum())
        assert latent.active == int((z[..., index] > 0).sum())
        order = peaks.argsort(descending=True, stable=True).tolist()
        bands: dict[str, list[int]] = {}
        for example in latent.examples:
            bands.setdefault(example.band, []).append(example.context)
        assert bands.get("top", []) == order[: min(3, on)]
        lowest = [number for number in order[:on][-2:] if number not in order[:3]]
        assert bands.get("lowest", []) == lowest
        every = [number for found in bands.values() for number in found]
        assert len(every) == len(set(every))
    assert {"top", "lowest"} < {one.band for one in busiest(images).examples}


def test_an_example_has_the_activation_of_each_patch_and_its_input(
    images: RunContext,
) -> None:
    z, _ = activations(images)
    latent = busiest(images)
    assert (latent.kind, latent.grid) == ("images", (5, 5))
    assert len(shown(latent)) == len(latent.examples)
    for example in shown(latent):
        expected = z[example.context, :, latent.latent]
        torch.testing.assert_close(torch.tensor(example.values), expected)
        assert example.peak == example.position == int(expected.argmax())
        found = example.input
        assert found.title == f"photo {example.context}"
        assert found.label == ("red", "green")[example.context % 2]
        assert found.picture is not None and found.seconds is None
        picture = Image.open(io.BytesIO(found.picture))
        assert (picture.format, picture.size) == ("JPEG", (MOST_PIXELS, MOST_PIXELS))


def test_a_quantile_band_is_among_the_peaks_of_active_inputs(
    images: RunContext,
) -> None:
    z, _ = activations(images)
    latent = busiest(images)
    peaks = z[..., latent.latent].amax(1)
    ranked = peaks[peaks > 0].sort().values
    for example in latent.examples:
        if "%" not in example.band:
            continue
        low, high = (int(end) / 100 for end in example.band[:-2].split("-"))
        middle = (float((ranked < example.activation).sum()) + 0.5) / len(ranked)
        # a bin of the histogram may join neighbours
        assert low - 0.1 <= middle <= high + 0.1


def test_clips_show_their_own_length_in_seconds(clips: RunContext) -> None:
    z, keep = activations(clips)
    latent = busiest(clips)
    assert (latent.kind, latent.grid) == ("clips", None)
    assert latent.tokens == int(keep.sum())
    assert len(shown(latent)) == len(latent.examples)
    for example in shown(latent):
        found = example.input
        assert found.picture is None
        assert found.seconds == pytest.approx(example.context + 1)
        assert found.rows == int(keep[example.context].sum())
        line = z[example.context, : found.rows, latent.latent]
        step = -(-found.rows // 256)
        joined = [float(part.max()) for part in line.split(step)]
        assert example.values == pytest.approx(joined)
        assert example.peak == example.position // step
        assert example.seconds == pytest.approx(0.05 * step)


def test_a_latent_is_shown_with_titles_and_where_it_peaks(
    images: RunContext, clips: RunContext
) -> None:
    text = show_latent(images.out, None, busiest(images).latent)
    assert "0 of Sequential, images photos" in text
    assert "of the patches" in text and "photo " in text and "lowest" in text
    assert " of 600 rows " in text
    example = shown(busiest(clips))[0]
    (line, *_) = [li for li in latent_lines(busiest(clips)) if "photo" in li]
    assert example.seconds is not None
    assert line.endswith(f": at {example.peak * example.seconds:.2f} s")


def test_the_result_names_both_tables(images: RunContext) -> None:
    path = result_path(images.out, EVAL, images.subjects[0].release, "sae")
    record = read_result(path)
    named = record["eval_result_unstructured"]
    assert named["inputs"]["file"].endswith("_inputs.parquet")
    table = path.with_name(named["inputs"]["file"])
    content = table.read_bytes()
    try:
        table.unlink()
        assert "is missing" in str(damaged_table(path, record))
        with pytest.raises(InputError, match="Table of inputs"):
            read_examples(path)
    finally:
        table.write_bytes(content)
    assert read_examples(path).inputs


def test_neuronpedia_shows_text_alone(images: RunContext) -> None:
    release = sr.open_release(images.out.parent / "release")
    with pytest.raises(InputError, match="reads images; expected SAEs on a language"):
        open_sources(images.out, release)


def test_the_same_inputs_in_other_batches_give_the_same_examples() -> None:
    sae = tiny_sae("module", "0", torch.zeros(D_IN), 0)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(30, 4, D_IN, generator=generator)
    keep = torch.ones(30, 4, dtype=torch.bool)
    keep[5, 2:] = False
    found: list[Any] = []
    for size in (30, 7):
        tally = InputTally(sae, ExamplesEvalConfig(**OPTIONS))
        with torch.no_grad():
            for part, kept in zip(x.split(size), keep.split(size), strict=True):
                tally.update(part, kept)
        found.append(chosen_examples(tally))
    one, other = found
    np.testing.assert_array_equal(one.found.token, other.found.token)
    np.testing.assert_array_equal(one.band, other.band)
    np.testing.assert_allclose(one.found.window, other.found.window, rtol=1e-5)
    assert (one.found.window[one.found.token // ROWS == 5, 2:] == 0).all()


@pytest.mark.parametrize(
    ("grid", "shape"), [([2, 2], [2, 2]), ([1, 4], None), (None, [2, 2])]
)
def test_a_square_number_of_rows_of_a_wide_map_is_no_square(
    grid: list[int] | None, shape: list[int] | None
) -> None:
    sae = tiny_sae("module", "0", torch.zeros(D_IN), 0)
    recorded = (
        {"rows": "patches"} if grid is None else {"rows": "patches", "grid": grid}
    )
    sae.cfg.metadata.activation_source = recorded
    tally = InputTally(sae, ExamplesEvalConfig(**OPTIONS))
    with torch.no_grad():
        tally.update(torch.randn(3, 4, D_IN), torch.ones(3, 4, dtype=torch.bool))
    assert tally.shape == shape


def test_many_patches_are_joined_in_squares() -> None:
    grid = RowGrid(37 * 37, square=True)
    assert (grid.side, grid.width) == (13, 169)
    values = torch.zeros(1, 37, 37)
    values[0, 7, 36] = 2.0
    lengths = np.array([37 * 37])
    window = grid.joined(values.flatten(1), lengths)[0]
    assert window[2 * 13 + 12] == 2.0 and window.sum() == 2.0
    assert grid.places(np.array([7 * 37 + 36]), lengths).tolist() == [2 * 13 + 12]


def test_a_picture_is_as_the_module_sees_it() -> None:
    values = torch.tensor([[[0.0]], [[1.0]], [[-1.0]]])
    known = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.5, 0.5]}
    assert to_picture(values, known).getpixel((0, 0)) == (128, 255, 0)
    assert to_picture(values, {}).getpixel((0, 0)) == (128, 255, 0)
    assert to_picture(torch.ones(1, 2, 2), {}).size == (2, 2)
    bare = {**known, "do_normalize": False}
    assert to_picture(values, bare).getpixel((0, 0)) == (0, 255, 0)


def test_a_picture_of_squeezenet_has_its_colours() -> None:
    image = Pictures()[0].resize((32, 32))
    loaded = load_module("squeezenet", image_size=32)
    seen = loaded.prepare([image]).kwargs["x"][0]
    found = np.asarray(to_picture(seen, loaded.preprocessing)).astype(int)
    assert abs(found - np.asarray(image)).max() <= 1


def test_inputs_of_too_many_rows_are_refused() -> None:
    sae = tiny_sae("module", "x", torch.zeros(D_IN), 0)
    tally = InputTally(sae, ExamplesEvalConfig(**OPTIONS))
    keep = torch.ones(1, ROWS + 1, dtype=torch.bool)
    with pytest.raises(InputError, match="65,537 rows; expected at most 65,536"):
        tally.update(torch.zeros(1, ROWS + 1, D_IN), keep)


def test_thumbnails_do_not_keep_a_source_in_memory() -> None:
    source = picture_source()
    gone, evaluation = ref(source), ExamplesEvaluation()
    context = RunContext([], Path("out"))
    with evaluation.opened(context, ExamplesEvalConfig()):
        evaluation.pictures[source] = {("0", 1): b"picture"}
        del source
        gc.collect()
        assert gone() is None
