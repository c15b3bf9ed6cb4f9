"""The stream of activations: nothing lost, nothing twice, resumable to the last bit."""

from __future__ import annotations

import pytest
import torch
from transformer_lens import HookedTransformer

from saereg_plugin.errors import InputError
from saereg_plugin.sweeps import SweepConfig
from tests.sweeps.tiny import (
    BATCH,
    D_IN,
    HOOK,
    batch_of,
    open_source,
    open_stream,
    temporal_fields,
    tiny_sweep,
)


def plain_activations(model: HookedTransformer, passes: int) -> torch.Tensor:
    """What the model itself gives on the same text, special tokens left out."""
    source = open_source(model, tiny_sweep())
    assert model.tokenizer is not None
    special = torch.tensor(model.tokenizer.all_special_ids)
    rows: list[torch.Tensor] = []
    for _ in range(passes):
        tokens = source.tokens()
        with torch.no_grad():
            _, cache = model.run_with_cache(tokens, names_filter=HOOK, stop_at_layer=1)
        rows.append(cache[HOOK][~torch.isin(tokens, special)])
    return torch.cat(rows)


def sorted_rows(rows: torch.Tensor) -> torch.Tensor:
    """Rows in the order of their first, second, ... value."""
    order = sorted(range(len(rows)), key=lambda i: rows[i, :3].tolist())
    return rows[order]


def test_without_mixing_it_is_the_model_in_order(model: HookedTransformer) -> None:
    expected = plain_activations(model, passes=12)
    stream = open_stream(model, tiny_sweep(mixing_fraction=0))
    served = torch.cat([batch_of(stream) for _ in range(9)])
    assert served.shape == (9 * BATCH, D_IN)
    torch.testing.assert_close(served, expected[: len(served)], rtol=0, atol=1e-5)


def test_special_tokens_can_be_kept(model: HookedTransformer) -> None:
    stream = open_stream(
        model, tiny_sweep(mixing_fraction=0, exclude_special_tokens=False)
    )
    batch = batch_of(stream)
    # each context of 64 begins with BOS, whose activation is always the same
    starts = batch[::64]
    assert torch.equal(starts, starts[:1].expand_as(starts))
    without = batch_of(open_stream(model, tiny_sweep(mixing_fraction=0)))
    assert not (without[:, None] == starts[:1]).all(-1).any()


def test_shuffled_stream_loses_and_repeats_nothing(model: HookedTransformer) -> None:
    stream = open_stream(model, tiny_sweep(mixing_fraction=0.5))
    served = torch.cat([batch_of(stream) for _ in range(6)])
    rows = torch.cat([served, stream.peek()[HOOK]])
    expected = plain_activations(model, passes=12)[: len(rows)]
    assert not torch.equal(rows, expected)
    torch.testing.assert_close(
        sorted_rows(rows), sorted_rows(expected), rtol=0, atol=1e-5
    )


def test_waiting_activations_are_served_next(model: HookedTransformer) -> None:
    stream = open_stream(model, tiny_sweep())
    batch_of(stream)
    waiting = stream.peek()[HOOK][:BATCH].clone()
    assert torch.equal(batch_of(stream), waiting)


def test_seed_decides_the_order(model: HookedTransformer) -> None:
    first, again, other = (
        batch_of(open_stream(model, tiny_sweep(seed=seed))) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_global_generator_is_neither_read_nor_moved(model: HookedTransformer) -> None:
    torch.manual_seed(1)
    first = batch_of(open_stream(model, tiny_sweep()))
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), drawn)
    assert torch.equal(batch_of(open_stream(model, tiny_sweep())), first)


@pytest.mark.parametrize("text_tokens", [0, 600])
def test_state_continues_with_the_same_batches(
    model: HookedTransformer, text_tokens: int
) -> None:
    sweep = tiny_sweep(text_tokens=text_tokens)
    stream = open_stream(model, sweep)
    for _ in range(3):
        batch_of(stream)
    state = stream.state_dict()
    expected = [batch_of(stream).clone() for _ in range(7)]
    resumed = open_stream(model, sweep)
    resumed.load_state_dict(state)
    for batch in expected:
        assert torch.equal(batch_of(resumed), batch)


def test_text_is_read_anew_after_so_many_training_tokens(
    model: HookedTransformer,
) -> None:
    whole = open_source(model, tiny_sweep())
    once = [whole.tokens() for _ in range(4)]
    counted = [int(whole.keep(tokens).sum()) for tokens in once]
    assert sum(counted[:2]) < 600 <= sum(counted[:3])
    source = open_source(model, tiny_sweep(text_tokens=600))
    for place in range(8):
        assert torch.equal(source.tokens(), once[place % 3])
    assert source.digest() != whole.digest()


def test_state_is_a_copy(model: HookedTransformer) -> None:
    stream = open_stream(model, tiny_sweep())
    batch_of(stream)
    state = stream.state_dict()
    pool = state["pool"][HOOK].clone()
    for _ in range(5):
        batch_of(stream).zero_()
    assert torch.equal(state["pool"][HOOK], pool)


def served_contexts(
    model: HookedTransformer, sweep: SweepConfig, n: int
) -> torch.Tensor:
    """The first n contexts of the text, as the store gives them."""
    source = open_source(model, sweep)
    parts: list[torch.Tensor] = []
    while sum(map(len, parts)) < n:
        parts.append(source.tokens())
    return torch.cat(parts)[:n]


@pytest.mark.parametrize("disable_concat_sequences", [False, True])
def test_pairs_across_documents_are_those_of_the_batches_served(
    model: HookedTransformer, disable_concat_sequences: bool
) -> None:
    sweep = SweepConfig(
        **temporal_fields(disable_concat_sequences=disable_concat_sequences)
    )
    stream = open_stream(model, sweep, count_pairs=True)
    assert stream.pairs_across_documents() == {
        "crossing": 0,
        "pairs": 0,
        "share": None,
    }
    stream.peek()
    for _ in range(9):
        batch_of(stream)
    contexts = served_contexts(model, sweep, 9 * BATCH // 64).tolist()
    assert model.tokenizer is not None
    bos = model.tokenizer.bos_token_id
    pairs = [(row[t - 1], row[t]) for row in contexts for t in range(2, 64)]
    crossing = sum(later == bos for _, later in pairs)
    assert (crossing == 0) == disable_concat_sequences
    assert stream.pairs_across_documents() == {
        "crossing": crossing,
        "pairs": len(pairs),
        "share": crossing / len(pairs),
    }
    assert len(pairs) == 36 * 62


def test_counting_changes_no_batch_and_goes_on_after_a_checkpoint(
    model: HookedTransformer,
) -> None:
    sweep = SweepConfig(**temporal_fields())
    plain = open_stream(model, sweep)
    stream = open_stream(model, sweep, count_pairs=True)
    for _ in range(3):
        assert torch.equal(batch_of(stream), batch_of(plain))
    assert plain.pairs_across_documents() is None
    state = stream.state_dict()
    for _ in range(5):
        batch_of(stream)
    resumed = open_stream(model, sweep, count_pairs=True)
    resumed.load_state_dict(state)
    assert resumed.state_dict()["pairs"] == state["pairs"]
    for _ in range(5):
        batch_of(resumed)
    counted = stream.pairs_across_documents()
    assert resumed.pairs_across_documents() == counted
    assert counted is not None and counted["crossing"] > 0
    with pytest.raises(InputError, match="did not count the pairs of tokens"):
        resumed.load_state_dict(plain.state_dict())
