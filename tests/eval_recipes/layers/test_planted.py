"""A difference that is planted at one layer is found there and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sae_lens import (
    SAE,
    GatedSAE,
    GatedSAEConfig,
    JumpReLUSAE,
    JumpReLUSAEConfig,
    StandardSAE,
    StandardSAEConfig,
)
from torch import Tensor
from transformer_lens import HookedTransformer

from eval_recipes.layers.activations import random_decoder, read_texts
from eval_recipes.layers.measurement import LayerScore, best_layers, measure_layers
from eval_recipes.layers.output import best_line, layers_frame
from eval_recipes.running.context import RunContext
from eval_recipes.steering.select.contrast import TextSets
from saereg_plugin.errors import InputError
from saereg_plugin.sources import corpora
from tests.eval_recipes.tiny_saes import D_SAE, save_release, tiny_sae

LAYER = 2
"""Layer at whose end the texts of the first set differ."""
SIZE = 60.0
"""Length of what is added; the residual stream is about as long."""


def texts() -> TextSets:
    """Two sets that differ in nothing but chance: every second text of the embedded corpus."""
    rows = (str(row["text"]) for row in corpora.load("embedded", "heldout"))  # pyright: ignore
    kept = [" ".join(row.split()[:25]) for row in rows if len(row.split()) > 10][:80]
    return TextSets(tuple(kept[::2]), tuple(kept[1::2]))


@pytest.fixture(scope="module")
def planted() -> tuple[TextSets, Tensor]:
    direction = torch.randn(576, generator=torch.Generator().manual_seed(7))
    return texts(), direction / direction.norm()


@pytest.fixture(scope="module")
def changed_model(
    planted: tuple[TextSets, Tensor], cut_model_folder: Path
) -> Iterator[HookedTransformer]:
    """The cut model: texts of the first set gain a direction behind layer 2, and lose it again."""
    from saereg_plugin.sources import models

    model = models.load(str(cut_model_folder)).eval()
    sets, direction = planted
    tokenizer: Any = model.tokenizer
    ids = {
        tuple(tokenizer(text, add_special_tokens=False)["input_ids"][:6])
        for text in sets.a
    }
    state: dict[str, Tensor] = {}

    def remember(_module: Any, args: tuple[Tensor, ...]) -> None:
        tokens = args[0].tolist()
        # position 0 is BOS
        found = [any(tuple(row[1:7]) == one for one in ids) for row in tokens]
        state["first"] = torch.tensor(found)

    def change(sign: float) -> Any:
        def hook(residual: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
            added = sign * SIZE * direction
            return residual + state["first"][:, None, None] * added

        return hook

    handle = model.embed.register_forward_pre_hook(remember)
    model.add_perma_hook(f"blocks.{LAYER}.hook_resid_post", change(1.0))
    model.add_perma_hook(f"blocks.{LAYER + 1}.hook_resid_pre", change(-1.0))
    yield model
    handle.remove()


@pytest.fixture(scope="module")
def measured(
    planted: tuple[TextSets, Tensor],
    changed_model: HookedTransformer,
    tmp_path_factory: pytest.TempPathFactory,
) -> list[LayerScore]:
    sets, direction = planted
    saes = {}
    for layer in range(4):
        hook = f"blocks.{layer}.hook_resid_post"
        sae = tiny_sae("smollm2-135m-instruct", hook, torch.zeros(576), layer)
        # the latents that could see it are in every layer's SAE
        sae.W_enc.data[:, 5:8] = direction[:, None]
        saes[f"layer{layer}"] = sae
    folder = tmp_path_factory.mktemp("planted") / "planted-layers"
    subjects = save_release(folder, saes)
    context = RunContext(subjects, folder)
    context.models.hold(
        changed_model, "smollm2-135m-instruct", dtype="float32", device="cpu"
    )
    # the groups of a release are seeds here, and hooks in a sweep over several
    found = measure_layers(context, sets, n_latents=3, permutations=50)
    return [_of_one_seed(one) for one in found]


def _of_one_seed(one: LayerScore) -> LayerScore:
    return replace(one, subject=replace(one.subject, seed=0, group=f"tiny-{one.hook}"))


def test_the_planted_layer_is_found(measured: list[LayerScore]) -> None:
    assert [one.layer for one in measured] == [0, 1, 2, 3]
    values = [one.latents.interval.value for one in measured]
    assert values[LAYER] > 0.95
    for layer in (0, 1, 3):
        low, high = measured[layer].latents.interval.ends
        assert low < 0.65 and high > 0.35 and values[layer] < 0.7
    (best,) = best_layers(measured)
    assert best.found.series == ("planted-layers", "tiny", 0)
    assert best.found.layer == LAYER
    assert best.p_value == pytest.approx(1 / 51)
    assert best.lead is not None and best.lead.low is not None and best.lead.low > 0.1
    assert f"blocks.{LAYER}.hook_resid_post scores" in best_line(best)
    assert set(measured[LAYER].latents.chosen[0]) == {5, 6, 7}


def test_probe_and_control_see_the_planted_layer_alone(
    measured: list[LayerScore],
) -> None:
    frame = layers_frame(measured)
    assert frame.loc[LAYER, "probe"] == pytest.approx(1.0, abs=0.02)
    others = frame.drop(index=LAYER)
    assert others["probe"].between(0.25, 0.75).all()
    # random directions see a part of a large change
    assert frame["random"].idxmax() == LAYER
    assert others["random"].between(0.3, 0.7).all()


def test_shares_are_counted_token_by_token(model: HookedTransformer) -> None:
    hook = f"blocks.{LAYER}.hook_resid_post"
    sae = tiny_sae("smollm2-135m-instruct", hook, torch.zeros(576), 0)
    context = RunContext([], Path())
    context.models.hold(model, "smollm2-135m-instruct", dtype="float32", device="cpu")
    sets = texts()
    read = read_texts(context, {"one": sae}, sets.a[:20], sets.b[:3], seed=0)["one"]
    for row in (0, 17, 22):
        text = (*sets.a[:20], *sets.b[:3])[row]
        tokens = model.to_tokens(text)
        _, cache = model.run_with_cache(tokens, names_filter=hook)
        vectors = cache[hook][0, 1:]
        fired = (sae.encode(vectors) != 0).double().mean(0)
        assert read.shares[row] == pytest.approx(fired.numpy(), abs=1e-9)
        assert read.pooled[row] == pytest.approx(
            vectors.double().mean(0).numpy(), abs=1e-4
        )
    assert read.l0 == pytest.approx(8, abs=0.01)
    assert read.random_l0 == pytest.approx(8, abs=0.01)


def sae_of_kind(kind: type[SAE[Any]], config: type[Any]) -> SAE[Any]:
    torch.manual_seed(0)
    sae: Any = kind(config(d_in=32, d_sae=D_SAE))
    for name, parameter in sae.named_parameters():
        scale = 0.1 if name.startswith("b_") else 0.3
        parameter.data = scale * torch.randn_like(parameter)
    if kind is JumpReLUSAE:
        sae.threshold.data = 1.0 + torch.rand(D_SAE)
    return sae


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (StandardSAE, StandardSAEConfig),
        (JumpReLUSAE, JumpReLUSAEConfig),
        (GatedSAE, GatedSAEConfig),
    ],
)
def test_the_random_control_fires_as_often(
    kind: type[SAE[Any]], config: type[Any]
) -> None:
    sae = sae_of_kind(kind, config)
    x = torch.randn(500, 32)
    made = random_decoder(sae, x, seed=0)
    assert made is not None
    fired = [float((one.encode(x) != 0).sum()) for one in (sae, made)]
    assert fired[1] == pytest.approx(fired[0], rel=0.01)
    assert torch.equal(made.W_enc, made.W_dec.T)
    assert made.W_dec.detach().norm(dim=-1).numpy() == pytest.approx(
        np.ones(D_SAE), abs=1e-5
    )
    assert torch.equal(made.b_dec, sae.b_dec)


def test_saes_that_join_heads_themselves_read_the_same(
    model: HookedTransformer, tmp_path: Path
) -> None:
    saes = {
        str(by_head): tiny_sae(
            "smollm2-135m-instruct",
            "blocks.1.attn.hook_z",
            torch.zeros(576),
            0,
            by_head=by_head,
        )
        for by_head in (False, True)
    }
    subjects = save_release(tmp_path / "heads", saes)
    context = RunContext(subjects, tmp_path)
    context.models.hold(model, "smollm2-135m-instruct", dtype="float32", device="cpu")
    found = measure_layers(context, texts(), n_latents=3, permutations=0)
    plain, joined = (replace(one, subject=subjects[0]) for one in found)
    assert joined.latents.interval == plain.latents.interval
    assert joined.random is not None and plain.random is not None
    assert joined.random.interval == plain.random.interval
    assert joined.rows == plain.rows and joined.l0 == plain.l0 > 0


def test_more_latents_than_the_sae_has_are_refused(tmp_path: Path) -> None:
    hook = "blocks.0.hook_resid_post"
    sae = tiny_sae("smollm2-135m-instruct", hook, torch.zeros(576), 0)
    subjects = save_release(tmp_path / "few-latents", {"a": sae})
    with pytest.raises(InputError, match="has 256 latents, but 300 are asked for"):
        measure_layers(RunContext(subjects, tmp_path), texts(), n_latents=300)
