"""Speed of steered text: batches against one prompt at a time."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from eval_recipes.speed.measurement import (
    Row,
    SpeedConfig,
    Timing,
    interleaved,
    timed_rows,
)
from eval_recipes.steering.generate.backend import Backend
from eval_recipes.steering.generate.decoding import Decoding, Request, Steering
from eval_recipes.steering.generate.generate import generate
from eval_recipes.steering.generate.language_model import backend_for
from eval_recipes.steering.generate.prompts import (
    PUBLISHED_PROMPTS,
    Prompt,
    encode_prompts,
)
from eval_recipes.steering.select.latents import random_directions
from saereg_plugin import machine
from saereg_plugin.sources import models

SUITE = "steering"
OURS = "saereg"
MODEL = "smollm2-135m-instruct"

_LAYER = 4
_HOOK = f"blocks.{_LAYER}.hook_resid_post"
_STRENGTH = 5.0


@dataclass(frozen=True)
class Work:
    """
    How much text an implementation makes in one call.

    Attributes:
        texts: at a time.
        new_tokens: of each.
    """

    texts: int
    new_tokens: int

    @property
    def tokens(self) -> int:
        """New tokens of a call."""
        return self.texts * self.new_tokens


BATCHED = Work(texts=128, new_tokens=30)
ONE_BY_ONE = Work(texts=1, new_tokens=20)
"""One text at a time takes long; its speed does not depend on how many follow."""


def steering_rows(
    config: SpeedConfig, *, batched: Work = BATCHED, one_by_one: Work = ONE_BY_ONE
) -> Iterator[Row]:
    """
    Sample steered texts with the embedded model, by all implementations in turns.

    The reference is ours in the dtype that the device is fastest in; peers run in float32,
    the plain loop also in the fast dtype.
    """
    folder = models.ensure(MODEL) or MODEL
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    prompts = encode_prompts(tokenizer, PUBLISHED_PROMPTS, prepend_bos=True)
    calls: dict[str, Callable[[], object]] = {}
    work: dict[str, Work] = {}
    # The fast dtype first: it is the reference.
    for dtype in dict.fromkeys((machine.fast_dtype(config.device), "float32")):
        plain: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, dtype=machine.torch_dtype(dtype)
        )
        plain.to(config.device).eval()  # pyright: ignore[reportArgumentType]
        steering = _steering(plain.config.hidden_size, batched.texts, config.seed)
        ours = f"{OURS}, {dtype}, {batched.texts} at a time"
        loop = f"transformers generate, {dtype}, one at a time"
        calls[ours] = _ours(backend_for(plain), tokenizer, prompts, steering, batched)
        calls[loop] = _plain_loop(
            plain, prompts[0], steering.vectors[0], one_by_one, config.seed
        )
        work |= {ours: batched, loop: one_by_one}
    hooked = models.load(MODEL, device=config.device)
    steering = _steering(hooked.cfg.d_model, 1, config.seed)
    name = "HookedTransformer.generate, float32, one at a time"
    calls[name] = _hooked_loop(
        hooked, prompts[0], steering.vectors[0], one_by_one, config.seed
    )
    work[name] = one_by_one
    timed = interleaved(
        calls, repeats=config.repeats, warm_up=0, device=config.device, label=SUITE
    )
    yield from per_token(timed, work, seed=config.seed)


def per_token(
    timed: Mapping[str, Timing], work: Mapping[str, Work], *, seed: int
) -> Iterator[Row]:
    """Yield a row for each implementation; ratios are times a token over the first's."""
    each = {
        name: Timing(tuple(second / work[name].tokens for second in timing.seconds))
        for name, timing in timed.items()
    }
    case = f"{MODEL}, sampled text, a token"
    return timed_rows(SUITE, case, each, work=1, unit="tokens/s", seed=seed)


def _steering(d_model: int, texts: int, seed: int) -> Steering:
    return Steering(
        hook_name=_HOOK, vectors=random_directions(texts, d_model, seed=seed)
    )


def _ours(
    backend: Backend,
    tokenizer: Any,
    prompts: list[Prompt],
    steering: Steering,
    work: Work,
) -> Callable[[], object]:
    requests = [
        Request(text % len(prompts), sample=text, vector=text, strength=_STRENGTH)
        for text in range(work.texts)
    ]
    decoding = Decoding(new_tokens=work.new_tokens)
    return lambda: generate(
        backend,
        tokenizer,
        prompts,
        requests,
        steering=steering,
        decoding=decoding,
        batch_size=work.texts,
    )


def _plain_loop(
    model: PreTrainedModel, prompt: Prompt, vector: Tensor, work: Work, seed: int
) -> Callable[[], object]:
    added = _STRENGTH * vector.to(model.device, model.dtype)
    tokens = torch.tensor([prompt.tokens], device=model.device)

    def steer(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        del module, args
        return output + added if output.shape[1] == 1 else output

    def call() -> object:
        layers: Any = model.get_submodule("model.layers")
        handle = layers[_LAYER].register_forward_hook(steer)
        run: Any = model
        try:
            with _own_random_numbers(seed):
                return run.generate(
                    tokens,
                    attention_mask=torch.ones_like(tokens),
                    do_sample=True,
                    temperature=Decoding.temperature,
                    top_p=Decoding.top_p,
                    top_k=0,
                    max_new_tokens=work.new_tokens,
                    min_new_tokens=work.new_tokens,
                    pad_token_id=0,
                )
        finally:
            handle.remove()

    return call


def _hooked_loop(
    model: Any, prompt: Prompt, vector: Tensor, work: Work, seed: int
) -> Callable[[], object]:
    added = _STRENGTH * vector.to(model.cfg.device)
    tokens = torch.tensor([prompt.tokens], device=model.cfg.device)

    def steer(residual: Tensor, hook: Any) -> Tensor:
        del hook
        return residual + added if residual.shape[1] == 1 else residual

    def call() -> object:
        with _own_random_numbers(seed), model.hooks(fwd_hooks=[(_HOOK, steer)]):
            return model.generate(
                tokens,
                max_new_tokens=work.new_tokens,
                stop_at_eos=False,
                do_sample=True,
                temperature=Decoding.temperature,
                top_p=Decoding.top_p,
                prepend_bos=False,
                verbose=False,
            )

    return call


@contextmanager
def _own_random_numbers(seed: int) -> Generator[None]:
    """Seed torch's global generator, from which both peers draw, and put it back."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
