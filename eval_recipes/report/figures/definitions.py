"""Definitions of figures that studies and commands measure themselves."""

from __future__ import annotations

from eval_recipes.report.meanings import Meaning, meaning

_OVER_CONTEXTS = "interval: bootstrap over held-out contexts"
_SHARED_TEXT = (
    "explained variance on held-out text, special tokens left out; " + _OVER_CONTEXTS
)

REVIVAL = {
    "revived_variance_gain": (
        "variance by revival",
        "explained variance of the revived SAEs minus that of the same SAEs trained on unchanged (ours); "
        + _OVER_CONTEXTS,
    ),
    "control_variance_gain": (
        "variance by control",
        "the null: explained variance of width-matched controls with as many latents more, minus that of "
        "controls trained on unchanged; " + _OVER_CONTEXTS,
    ),
    "variance_gain_over_control": (
        "variance over control",
        "gain of the revived SAEs minus that of the control, paired by context",
    ),
    "revived_loss_gain": (
        "CE by revival",
        "cross entropy that the revived latents save, nats a token, with the SAE's output in the language "
        "model; " + _OVER_CONTEXTS,
    ),
    "control_loss_gain": (
        "CE by control",
        "the null: the same of the width-matched controls",
    ),
    "loss_gain_over_control": (
        "CE over control",
        "saved cross entropy of the revived SAEs minus that of the control, paired by context",
    ),
    "latents": ("latents", "latents that were given back to each SAE"),
    "fire_again": (
        "fire again",
        "share of the latents given back that fire on held-out inputs; Wilson's interval over latents",
    ),
}
"""Title and sentence of each figure of ``saereg-bench revive``."""

POOL = {
    "explained_variance": ("explained variance", _SHARED_TEXT),
    "explained_variance_gain": (
        "gain in explained variance",
        "of the pooled SAE minus the mean of the other arm, paired by context; the control cost as much as "
        "seeds and pool together",
    ),
    "dead_share": (
        "dead share",
        "latents that fire on no held-out token; Wilson's interval over latents",
    ),
    "shared": (
        "shared",
        "share of the narrower SAE's latents with one partner by decoder and encoder, both |cosine| above "
        "the shared threshold; bootstrap over latents",
    ),
    "shared_firing": (
        "shared of firing",
        "the same among latents that fire on held-out text",
    ),
    "shared_random": (
        "shared, uniform null",
        "the null: shared of dictionaries of these shapes with uniform directions",
    ),
    "shared_gaussian": (
        "shared, Gaussian null",
        "the null: shared of rows drawn from N(0, covariance of the activations)",
    ),
}
"""The same of ``saereg-bench pool``."""

DISTILLATION = {
    "explained_variance": ("explained variance", _SHARED_TEXT),
    "l0": ("L0", "effective L0: active latents of a token, the core included"),
    "l0_core": ("L0 of the core", "active latents of a token in the frozen core"),
    "l0_rest": ("L0 without the core", "active latents of a token outside it"),
    "ce_gap": (
        "CE gap",
        "cross entropy of the next token with the SAE in place minus that without, nats a token; "
        + _OVER_CONTEXTS,
    ),
    "core_frozen": ("frozen core", "latents that the SAE was trained with, frozen"),
    "core_promoted": (
        "promoted core",
        "latents that reach the wanted share of the total attribution on this SAE",
    ),
    "core_attribution": (
        "attribution of the core",
        "share of the total score that the promoted core carries",
    ),
    "core_kept": (
        "core kept",
        "share of the frozen core that is promoted again; chance: promoted latents over latents that fire",
    ),
    "core_in_all_cycles": (
        "core of all cycles",
        "latents that are in the cores of all cycles so far",
    ),
    "core_agreement": (
        "agreement of cores",
        "of two seeds' cores by matched partner, over the smaller core (ours); chance: random cores of "
        "these sizes among the latents that fire",
    ),
    "core_shared": (
        "shared of the core",
        "core latents that are shared with the other seed; chance: of all latents that fire",
    ),
}
"""The same of ``saereg-bench distill``; ``variance_over_<group>`` is there for each control."""
_OVER = "variance_over_"

_HELDOUT = {
    "explained_variance": "1 - squared error / variance on held-out text, special tokens left out",
    "l0": "active latents of a held-out token",
    "frac_alive": "share of the latents that fire on held-out text",
}
_BEHAVIOUR = {
    "ce_gap": "cross entropy of the next token with the SAE in place minus that without, nats a token, "
    "special tokens left as they are; on a quarter of the held-out text",
    "kl": "KL(next tokens without the SAE || with it), nats a token, on the same text",
}
_LATENTS = {
    "off_support_share": "share of the activation after ReLU that the SAE does not keep (arXiv 2606.27321)",
    "l1_l2_ratio": "mean over tokens of ||a||_1 / ||a||_2 of the activations after ReLU",
    "token_change": "squared change of the codes between neighbouring tokens, over the sum of their squared "
    "norms: 0 if nothing changes, 1 if nothing stays",
    "support_change": "the same of which latents are active",
}

TEXTS = {
    "target": "what is told: difficulty, quality, or the cluster of a text",
    "features": "sae: pooled latents; raw: mean activations that the SAE reads; tfidf: words and pairs of "
    "them; length: logarithm of the number of tokens",
    "held-out": "score on texts of groups that no probe has seen [95 %, bootstrap over groups of texts]",
    "shuffled labels": "the null: mean score after the labels were shuffled",
    "95 % of shuffles": "the score that 5 % of the shuffles exceed; p counts the shuffles that reach it",
    "one answer": "score of one answer for all texts",
    "SAE minus this": "on the same folds and resamples",
}
"""Columns of ``saereg-bench data``."""

LAYERS = {
    "score": "mean AUROC of the most specific latents, on texts that did not choose them; 1/2 is chance "
    "[95 %, bootstrap over texts]",
    "chance": "what 5 % of permutations of the labels reach",
    "random decoder": "the null: the same score of an SAE with a random decoder",
    "probe": "AUROC of a linear probe on the raw activations of that layer",
    "over random, over probe": "score minus the other, paired by text",
    "energy kept": "share of the task vector's energy in the span of the latents' decoder rows",
    "k / d": "the null: share that a random subspace of as many dimensions keeps",
    "random subspaces": "least and greatest share of drawn ones",
    "|tau| / |theta|": "norm of the task vector over that of the base's weights, in this layer",
}
"""Columns of ``saereg-bench layers``."""

_OF_COMMANDS = {"revival": REVIVAL, "pool": POOL, "distillation": DISTILLATION}
_OF_STUDIES = {"heldout": _HELDOUT, "behaviour": _BEHAVIOUR, "latents": _LATENTS}


def title_and_sentence(command: str, name: str) -> tuple[str, str]:
    """
    Return a figure of a command in words; its own name where it is not known.

    >>> title_and_sentence("distillation", "variance_over_matched")[0]
    'variance over matched'
    """
    if name.startswith(_OVER):
        other = name.removeprefix(_OVER)
        sentence = f"explained variance of the last distilled SAEs minus that of {other}, paired by context"
        return f"variance over {other}", _sentence(sentence)
    title, text = _OF_COMMANDS[command].get(name, (name.replace("_", " "), ""))
    return title, _sentence(text)


def definition(eval_type: str, metric: str) -> str:
    """Return a sentence on a figure of a study's table; "" where it is not known."""
    name = metric.rsplit("/", 1)[-1]
    if eval_type in _OF_COMMANDS:
        return title_and_sentence(eval_type, name)[1]
    if eval_type in _OF_STUDIES:
        return _sentence(_OF_STUDIES[eval_type].get(name, ""))
    found: Meaning = meaning(eval_type, metric)
    return found.sentence


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""
