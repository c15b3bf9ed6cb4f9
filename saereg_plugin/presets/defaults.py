"""Fields that the papers leave open and presets leave at their defaults, with the reason."""

from __future__ import annotations

from collections.abc import Mapping

NOT_STATED = "not stated"
CONSTANT = "constant; no schedule is stated"

_SWEEP = "default of this package's sweeps"
SWEEP = {
    "exclude_special_tokens": _SWEEP,
    "prepend_bos": _SWEEP,
    "buffer_tokens": _SWEEP,
    "mixing_fraction": _SWEEP,
    "disable_concat_sequences": _SWEEP,
    "dead_feature_window": _SWEEP,
}
"""Of a run, shuffled as this package's sweeps do."""

OPEN_RUN = {
    **SWEEP,
    "context_size": NOT_STATED,
    "lr": NOT_STATED,
    "lr_warm_up_steps": NOT_STATED,
    "lr_decay_fraction": NOT_STATED,
    "seeds": NOT_STATED,
    "tokens": NOT_STATED,
    "batch_size": NOT_STATED,
    "corpus": NOT_STATED,
}
"""Of a run of which the paper, as far as we have it, says nothing but model and layer."""

_NO_TEXT = "of no use on images"
IMAGES = {
    "context_size": _NO_TEXT,
    "exclude_special_tokens": _NO_TEXT,
    "prepend_bos": _NO_TEXT,
    "buffer_tokens": _NO_TEXT,
    "mixing_fraction": _NO_TEXT,
    "disable_concat_sequences": _NO_TEXT,
}
"""Of a run on images."""

SAE = {
    "initialization": "not stated; tied, as in SAELens",
    "b_dec_init": "not stated; zero, as in SAELens",
    "decoder_init_norm": "not stated; rows start at norm 1",
    "apply_b_dec_to_input": "not stated; SAELens' default, True",
    "max_norm_multiple": "no filter of activations is stated",
}
"""Of every SAE."""

TOPK = {
    **SAE,
    "mechanics": "none is stated",
    "rescale_acts_by_decoder_norm": "no difference at unit norm",
    "aux_loss_coefficient": "not stated; SAELens' default, 1",
    "auxk_scaling": "not stated; SAELens' own",
}
"""Of the TopK kinds."""

STANDARD = {
    **SAE,
    "l1_warm_up_steps": "none is stated",
    "lp_norm": "1: an L1",
}
"""Of ReLU SAEs."""


def without(reasons: Mapping[str, str], *names: str) -> dict[str, str]:
    """Return the reasons of all other fields; a wrong name is a KeyError."""
    left = dict(reasons)
    for name in names:
        del left[name]
    return left
