"""Token order is proved from the data before a weight changes, and what breaks it is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import TrainingSAE

import saereg_plugin as sr
from saereg_plugin.regularizers.token_order import crosses_documents, start_spread
from tests.regularizers.synthetic import CONTEXT, in_batches, small_sae, token_data
from tests.training import (
    assert_same_state,
    component,
    estimate_scale,
    forward,
    make_trainer,
    run_steps,
)

BATCH = 8 * CONTEXT


def ordered_sae(**metadata: Any) -> Any:
    """As SAELens' runner leaves it, with ``metadata`` changed."""
    sae = small_sae("standard", regularizers=[sr.TemporalDifference(coefficient=0.1)])
    as_the_runner_says = {
        "context_size": CONTEXT,
        "prepend_bos": True,
        "exclude_special_tokens": False,
        "seqpos_slice": (None,),
        "disable_concat_sequences": False,
    }
    for key, value in (as_the_runner_says | metadata).items():
        sae.cfg.metadata[key] = value
    return sae


def shuffled(rows: torch.Tensor) -> torch.Tensor:
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]


def refused_unchanged(sae: Any, rows: torch.Tensor, message: str) -> None:
    """The step is refused and has left weights and state as they were."""
    trainer = make_trainer(sae, iter([rows]), batch_size=len(rows))
    before = {key: value.clone() for key, value in sae.state_dict().items()}
    with pytest.raises(sr.InputError, match=message):
        run_steps(trainer, 1)
    for key, value in sae.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_shuffled_tokens_are_refused_by_the_setting_that_shuffles_them() -> None:
    rows = shuffled(token_data(8))
    refused_unchanged(
        ordered_sae(), rows, "Set activations_mixing_fraction=0 in SAELens"
    )
    assert start_spread(token_data(8), CONTEXT) == 0
    assert start_spread(rows, CONTEXT) > 0.5


def test_contexts_that_begin_elsewhere_are_refused() -> None:
    rows = token_data(9)[1 : 1 + BATCH]
    refused_unchanged(ordered_sae(), rows, "tokens do not come in order")


def test_shuffling_that_begins_later_is_refused() -> None:
    sae = ordered_sae()
    trainer = make_trainer(sae, in_batches(token_data(24), BATCH), batch_size=BATCH)
    run_steps(trainer, 3)
    refused_unchanged(sae, shuffled(token_data(8)), "activations_mixing_fraction=0")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"context_size": None}, "the length of a context is unknown"),
        ({"context_size": 2}, "context_size is 2; expected at least 3"),
        ({"prepend_bos": False}, "Set prepend_bos=True"),
        ({"exclude_special_tokens": True}, "Set exclude_special_tokens=False"),
        ({"exclude_special_tokens": [0, 2]}, r"exclude_special_tokens is \[0, 2\]"),
        (
            {"seqpos_slice": (1, None)},
            r"seqpos_slice is \(1, None\).* Set seqpos_slice",
        ),
        ({"seqpos_slice": [0, -1]}, r"seqpos_slice is \(0, -1\)"),
    ],
)
def test_settings_that_break_contexts_are_refused(
    metadata: dict[str, Any], message: str
) -> None:
    refused_unchanged(ordered_sae(**metadata), token_data(8), message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"mixing_fraction": 0.5},
            "a fraction of 0.5 .* shuffled.* Set activations_mix",
        ),
        ({"batch_size": 65}, "65 rows, which is no multiple of context_size=8"),
        ({"batch_size": 8}, "a single context of 8 tokens"),
        ({"context_size": 2}, "context_size is 2; expected at least 3"),
        ({"prepend_bos": False}, "Set prepend_bos=True"),
        ({"exclude_special_tokens": True}, "Set exclude_special_tokens=False"),
        ({"seqpos_slice": (0, 4)}, r"seqpos_slice is \(0, 4\)"),
    ],
)
def test_settings_are_refused_before_there_are_tokens(
    changes: dict[str, Any], message: str
) -> None:
    good: dict[str, Any] = {
        "sae": ordered_sae().cfg,
        "model_name": "gpt2",
        "context_size": CONTEXT,
        "batch_size": BATCH,
        "mixing_fraction": 0.0,
    }
    regularizer = sr.TemporalDifference(label="slow")
    regularizer.check_run(sr.RunSettings(**good))
    with pytest.raises(sr.InputError, match=f"^slow: .*{message}"):
        regularizer.check_run(sr.RunSettings(**{**good, **changes}))
    other = sr.TemporalDifference(context_size=CONTEXT + 1)
    with pytest.raises(
        sr.InputError, match="context_size is 9, but the SAE's metadata"
    ):
        other.check_run(sr.RunSettings(**good))


@pytest.mark.parametrize("seqpos_slice", [None, (None,), [None], (0, None), (CONTEXT,)])
def test_a_slice_of_everything_is_no_slice(seqpos_slice: Any) -> None:
    output = forward(ordered_sae(seqpos_slice=seqpos_slice), token_data(8))
    assert output.loss.isfinite()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (BATCH + 1, "no multiple of context_size=8.* for example 64"),
        (CONTEXT, "a single context of 8 tokens.* 16 or a larger multiple of 8"),
        (CONTEXT - 1, "no multiple of context_size=8.* for example 16"),
    ],
)
def test_a_batch_of_other_than_whole_contexts_is_refused(
    rows: int, message: str
) -> None:
    refused_unchanged(ordered_sae(), token_data(9)[:rows], message)


def test_equal_or_broken_rows_prove_nothing() -> None:
    for value in (1.0, float("nan")):
        rows = torch.full((BATCH, 16), value)
        refused_unchanged(ordered_sae(), rows, "tokens do not come in order")


def test_two_contexts_are_enough() -> None:
    assert forward(ordered_sae(), token_data(2)).loss.isfinite()


@pytest.mark.parametrize(
    "scaling", ["expected_average_only_in", "covariance_whitening", "layer_norm"]
)
def test_scaled_or_whitened_activations_are_recognised(scaling: str) -> None:
    sae = small_sae(
        "standard",
        normalize_activations=scaling,
        regularizers=[sr.TemporalDifference(coefficient=0.1, context_size=CONTEXT)],
    )
    trainer = make_trainer(
        sae, in_batches(1e3 * token_data(64), BATCH), batch_size=BATCH
    )
    if scaling == "expected_average_only_in":
        assert estimate_scale(trainer) < 0.01
    elif scaling == "covariance_whitening":
        trainer.activation_scaler.estimate_whitening(
            16, trainer.data_provider, n_batches_for_norm_estimate=4
        )
    run_steps(trainer, 2)
    refused_unchanged(
        sae, shuffled(1e3 * token_data(8)), "activations_mixing_fraction=0"
    )


def test_bfloat16_rows_are_recognised() -> None:
    rows = token_data(8).bfloat16()
    assert start_spread(rows, CONTEXT) == 0
    rows[::CONTEXT, 0] += torch.tensor([0.0, 1 / 64] * 4).bfloat16()[
        : len(rows[::CONTEXT])
    ]
    assert start_spread(rows, CONTEXT) < 0.05 < start_spread(shuffled(rows), CONTEXT)


def test_order_is_checked_again_after_loading(tmp_path: Path) -> None:
    sae = ordered_sae()
    trainer = make_trainer(sae, in_batches(token_data(16), BATCH), batch_size=BATCH)
    run_steps(trainer, 2)
    trainer.save_checkpoint("two", base_path=tmp_path)
    loaded = TrainingSAE.load_from_disk(tmp_path / "two")
    assert loaded.cfg.metadata.context_size == CONTEXT
    assert_same_state(loaded, sae)
    refused_unchanged(loaded, shuffled(token_data(8)), "activations_mixing_fraction=0")
    # metadata is read again, too: the runner of the resumed run may say something else
    sae.load_weights_from_checkpoint(tmp_path / "two")
    sae.cfg.metadata.prepend_bos = False
    refused_unchanged(sae, token_data(8), "Set prepend_bos=True")


def test_context_size_that_contradicts_the_metadata_is_refused() -> None:
    sae = small_sae("standard", regularizers=[sr.TemporalDifference(context_size=4)])
    sae.cfg.metadata.context_size = CONTEXT
    refused_unchanged(
        sae, token_data(8), "context_size is 4, but the SAE's metadata says 8"
    )


def test_another_component_that_drops_rows_is_refused() -> None:
    from tests.regularizers.throwaway import Watcher

    watchful = [sr.TemporalDifference(context_size=CONTEXT), Watcher(drop=1)]
    sae = small_sae("standard", regularizers=watchful)
    refused_unchanged(
        sae, token_data(8), "another component takes rows out of the contexts"
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_norm_multiple": 10.0}, "Set max_norm_multiple=None"),
        (
            {"regularizers": [sr.TemporalDifference(), sr.TemporalDifference()]},
            "temporal_difference is given twice",
        ),
    ],
)
def test_combinations_without_whole_contexts_are_refused(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(sr.InputError, match=message):
        small_sae("standard", **{"regularizers": [sr.TemporalDifference()], **fields})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"decay": 1.0}, "decay is 1.0; expected at least 0 and below 1"),
        ({"sharpness": -5.0}, "sharpness is -5.0; expected a finite number, 0 or more"),
        (
            {"average_start": "one"},
            "average_start is 'one'. Known: 'first_loss', 'zero'",
        ),
        ({"reduction": "max"}, "reduction is 'max'. Known: 'mean', 'sum'"),
    ],
)
def test_bad_fields_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(sr.InputError, match=f"temporal_difference: {message}"):
        sr.TemporalDifference(**fields)


@pytest.mark.parametrize(("disabled", "may_cross"), [(True, 0), (False, 1)])
def test_metrics_say_whether_pairs_may_cross_documents(
    disabled: bool, may_cross: int
) -> None:
    sae = ordered_sae(disable_concat_sequences=disabled)
    metrics = forward(sae, token_data(8)).metrics
    assert metrics["temporal_difference_pairs_may_cross_documents"] == may_cross
    assert component(sae, "temporal_difference").state_dict().keys() == {
        "average_loss",
        "started",
    }


def test_pairs_across_documents_are_counted() -> None:
    """0 separates documents; pairs begin at position 1, so the first pair is (1, 2)."""
    contexts = torch.tensor(
        [[0, 5, 6, 0, 7, 8], [0, 0, 5, 6, 7, 0], [0, 5, 5, 5, 5, 5]]
    )
    crossing = crosses_documents(contexts, 0)
    assert crossing.nonzero().tolist() == [[0, 3], [1, 5]]
