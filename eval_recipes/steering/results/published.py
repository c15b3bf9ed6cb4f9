"""How a run differs from that of arXiv 2603.04198, whose figures it may be compared with."""

from __future__ import annotations

from typing import Any

from sae_lens import SAE

from eval_recipes.steering.generate.prompts import PUBLISHED_PROMPTS
from eval_recipes.steering.options import SteeringEvalConfig

MODEL = "pythia-70m-deduped"
HOOK = "blocks.3.hook_resid_post"
JUDGE = "gpt-5.1"
ALPHA = 5.0
LATENTS = 300


def differences(
    sae: SAE[Any], config: SteeringEvalConfig, explainer: str
) -> dict[str, Any]:
    """
    Return the settings in which a run is not the published one, with their values.

    Explanations count as published if a language model made them; which one the paper does
    not fix for others.

    Args:
        sae: the SAE.
        config: the settings.
        explainer: what made the explanations: "tokens", or a model's name.
    """
    metadata = sae.cfg.metadata
    model = str(metadata.model_name).rpartition("/")[2]
    judge = config.judge_model if config.judges[0] == "chat" else config.judges[0]
    found = {
        "model": (model, MODEL),
        "hook": (metadata.hook_name, HOOK),
        "judge": (judge, JUDGE),
        "judge_temperature": (config.judge_temperature, 0.0),
        "select": (config.select if config.latents is None else "given", "random"),
        "n_latents": (config.n_latents, LATENTS),
        "prompts": (tuple(config.prompts), PUBLISHED_PROMPTS),
        "strength_mode": (config.strength_mode, "fixed"),
        "amount": (config.amounts[0], ALPHA),
        "positions": (config.positions, "generation"),
        "new_tokens": (config.new_tokens, 30),
        "greedy": (config.greedy, False),
        "temperature": (config.temperature, 0.7),
        "top_p": (config.top_p, 0.9),
        "samples_per_prompt": (config.samples_per_prompt, 1),
    }
    differing: dict[str, Any] = {
        name: list(value) if isinstance(value, tuple) else value
        for name, (value, published) in found.items()
        if value != published
    }
    if explainer == "tokens":
        differing["explainer"] = explainer
    return differing
