"""
Decoding: settings, requests, and the choice of tokens from logits.

Tokens are chosen greedily, or by inverse CDF over the nucleus. The nucleus is the shortest list
of the likeliest tokens, sorted by probability and, where equal, by id, that holds a probability
of ``top_p`` or more (arXiv 1904.09751). A uniform number u picks the token whose interval of
the nucleus' CDF holds it. The CDF runs in the order of ids: the order of probabilities could
change with the last bit of a logit, and with it every interval.

Rounding differs between batches of different sizes. A choice that a change of 1e-4 in the
quantile could turn into another is a near tie; near ties are counted.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from saereg_plugin.checks import checked_dataclass
from saereg_plugin.errors import InputError, suggest

NEAR = 1e-4
"""Distance in the sampled quantile, or in log-probability, below which a choice is a near tie."""

_LIKELY = 1e-4
"""Probability below which tokens are looked at only where likelier ones hold too little."""
_ROWS_IN_CACHE = 8

Positions = Literal["generation", "prompt_end", "all"]
"""
Positions that are steered.

- ``generation``: the new tokens, as by a hook that leaves out the pass over the
  prompt; the first new token is chosen before any steering.
- ``prompt_end``: also the last token of the prompt, hence every choice of a new token.
- ``all``: the whole text, BOS included.
"""


@checked_dataclass
class Decoding:
    """
    Settings of continuations; the defaults are those of arXiv 2603.04198.

    Raises:
        InputError: for unusable values.
    """

    new_tokens: Annotated[int, Field(ge=1)] = 30
    """Tokens of every continuation."""
    greedy: bool = False
    """Take the likeliest token instead of a sample."""
    temperature: Annotated[float, Field(gt=0)] = 0.7
    """Of samples; for the likeliest token use ``greedy``."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Of samples."""
    stop_at_eos: bool = False
    """End a text before its first EOS; the published setting continues."""
    seed: int = 0


@dataclass(frozen=True)
class Request:
    """One text to make."""

    prompt: int
    """Index of its prompt."""
    sample: int = 0
    """Number of the prompt's stream of random numbers; any whole number."""
    vector: int | None = None
    """Index of the direction that is added; None for no direction."""
    strength: float = 0.0
    """Factor of the direction."""


@dataclass(frozen=True, kw_only=True)
class Steering:
    """Directions and where they are added: ``h <- h + strength * vectors[i]``."""

    hook_name: str
    """A hook in the residual stream."""
    vectors: Tensor
    """[n, d_model], usually of norm 1."""
    positions: Positions = "generation"

    def __post_init__(self) -> None:
        if self.positions not in get_args(Positions):
            raise InputError(
                f"Unknown positions {self.positions!r}. "
                f"{suggest(self.positions, get_args(Positions))}"
            )
        if self.vectors.ndim != 2:
            raise InputError(
                f"vectors have shape {tuple(self.vectors.shape)}; expected [n, d_model]."
            )

    def offsets(self, requests: list[Request]) -> Tensor:
        """
        Return what is added to each request's residual stream [request, d_model].

        Raises:
            InputError: for a strength that is not finite, or a vector that is not there.
        """
        added = torch.zeros(len(requests), self.vectors.shape[1])
        for row, request in enumerate(requests):
            if request.vector is None:
                continue
            if not 0 <= request.vector < len(self.vectors):
                raise InputError(
                    f"A request names vector {request.vector}; expected one of the "
                    f"{len(self.vectors)} given."
                )
            if not math.isfinite(request.strength):
                raise InputError(
                    f"The strength of vector {request.vector} is {request.strength}; expected "
                    "a finite number. Leave out latents that have none."
                )
            vector = self.vectors[request.vector].detach().float().cpu()
            added[row] = request.strength * vector
        return added


@dataclass(frozen=True)
class Continuation:
    """The new text after a prompt."""

    tokens: tuple[int, ...]
    text: str
    near_ties: int = 0
    """Choices among the tokens that rounding might turn into others."""
    first_near_tie: int | None = None
    """Place of the first such choice, None if there is none."""


def require_numbers(logits: Tensor, added: Tensor | None) -> None:
    """
    Refuse logits that are NaN: steering has driven the model out of its range.

    Logits [batch, vocabulary]; ``added`` to each row's residual stream [batch, d_model].

    Raises:
        InputError: naming the strength and the data type.
    """
    bad = logits.isnan().any(dim=1).cpu()
    if not bool(bad.any()):
        return
    strengths = torch.zeros(len(bad)) if added is None else added.norm(dim=1).cpu()
    dtype = str(logits.dtype).removeprefix("torch.")
    raise InputError(
        f"The model's logits are no numbers in {int(bad.sum())} of {len(bad)} texts, from "
        f"strength {float(strengths[bad].min()):.4g} on in {dtype}; expected numbers. Steer "
        "less, or in a data type of larger range."
    )


def greedy(logits: Tensor) -> tuple[Tensor, Tensor]:
    """
    Choose the likeliest tokens from logits [batch, vocabulary]; of equal ones the smallest id.

    Returns:
        Tokens [batch] and whether each is a near tie [batch]: the second likeliest has a
        log-probability within 1e-4.
    """
    best = logits.topk(2, dim=1).values.float()
    # topk may name any of equal tokens
    tokens = (logits >= best[:, :1]).int().argmax(dim=1)
    return tokens, best[:, 0] - best[:, 1] < NEAR


def sample(
    logits: Tensor, u: Tensor, *, temperature: float, top_p: float
) -> tuple[Tensor, Tensor]:
    """
    Choose tokens by inverse CDF over each row's nucleus.

    Args:
        logits: [batch, vocabulary].
        u: float64 [batch], in [0, 1).
        temperature: what logits are divided by, first.
        top_p: probability that the nucleus holds at least.

    Returns:
        Tokens [batch] and whether each is a near tie [batch].
    """
    log_p, ids = _candidates(logits, temperature, top_p)
    order = log_p.sort(dim=1, descending=True, stable=True).indices
    sorted_p = log_p.gather(1, order).exp()
    reached = sorted_p.cumsum(1)
    # Rounding may leave the sum of all below 1: what fills rows up is never inside.
    inside = (reached - sorted_p < top_p) & (sorted_p > 0)
    # back in the order of ids
    member = torch.zeros_like(inside).scatter(1, order, inside)
    weights = torch.where(member, log_p.exp(), 0.0)
    total = weights.sum(1, keepdim=True)
    cdf = weights.cumsum(1) / total
    place = torch.searchsorted(cdf, u[:, None].contiguous(), right=True)
    # Rounding may leave the last value of the CDF below u.
    last = _last_member(member)
    place = torch.minimum(place, last)
    high = cdf.gather(1, place)
    low = high - weights.gather(1, place) / total
    margin = NEAR + _uncertain(sorted_p, reached, inside, top_p) / total
    first = member.int().argmax(1, keepdim=True)
    below = (u[:, None] - low < margin) & (place > first)
    above = (high - u[:, None] < margin) & (place < last)
    return ids.gather(1, place)[:, 0], (below | above)[:, 0]


def _candidates(
    logits: Tensor, temperature: float, top_p: float
) -> tuple[Tensor, Tensor]:
    """
    Return log-probabilities (float64) and ids of all tokens that the nucleus can hold.

    [batch, most candidates of a row + 1], in the order of ids, filled up with -inf: a nucleus
    always has a token after it.
    """
    # Sorting the vocabulary would take longer than the model, and passes over all rows at
    # once leave the processor's cache.
    at_once = _ROWS_IN_CACHE if logits.device.type == "cpu" else len(logits)
    parts = [
        _likely(part, temperature, top_p) for part in logits.split(max(1, at_once))
    ]
    counts = torch.cat([part[0] for part in parts])
    log_p = torch.cat([part[1] for part in parts])
    columns = torch.cat([part[2] for part in parts])
    rows = torch.arange(len(logits), device=logits.device).repeat_interleave(counts)
    starts = counts.cumsum(0) - counts
    places = torch.arange(len(rows), device=logits.device) - starts[rows]
    shape = (len(logits), int(counts.max()) + 1)
    values = torch.full(shape, -math.inf, dtype=torch.float64, device=logits.device)
    ids = torch.zeros(shape, dtype=torch.long, device=logits.device)
    values[rows, places] = log_p
    ids[rows, places] = columns
    return values, ids


def _likely(
    logits: Tensor, temperature: float, top_p: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the number of tokens kept [row], and their log-probabilities and ids."""
    scaled = logits.float() / temperature
    norm = scaled.logsumexp(1, keepdim=True)
    kept = scaled >= norm + math.log(_LIKELY)
    mass = scaled.new_zeros(len(scaled), dtype=torch.float64)
    rows, columns = kept.nonzero(as_tuple=True)
    log_p = (scaled[rows, columns] - norm[rows, 0]).double()
    mass.index_add_(0, rows, log_p.exp())
    short = mass < top_p + NEAR
    if bool(short.any()):
        # Tokens below this hold at most (1 - top_p) / 2 together.
        least = (1 - top_p) / (2 * scaled.shape[1])
        cut = math.log(least) if least > 0 else -math.inf
        kept = torch.where(short[:, None], scaled >= norm + cut, kept)
        rows, columns = kept.nonzero(as_tuple=True)
        log_p = (scaled[rows, columns] - norm[rows, 0]).double()
    return kept.sum(1), log_p, columns


def _last_member(member: Tensor) -> Tensor:
    places = torch.arange(member.shape[1], device=member.device)
    return torch.where(member, places, 0).amax(1, keepdim=True)


def _uncertain(
    sorted_p: Tensor, reached: Tensor, inside: Tensor, top_p: float
) -> Tensor:
    """
    Return the probability [batch, 1] of tokens that might as well be in or out of the nucleus.

    By so much the CDF of a nearly equal row can be shifted.
    """
    last = _last_member(inside)
    following = last + 1
    p_last = sorted_p.gather(1, last)
    p_following = sorted_p.gather(1, following)
    would_drop = reached.gather(1, last) - p_last > top_p - NEAR
    would_join = reached.gather(1, last) < top_p + NEAR
    equal = inside & (sorted_p < p_following * math.exp(NEAR))
    return (
        torch.where(would_drop, p_last, 0.0)
        + torch.where(would_join, p_following, 0.0)
        + torch.where(equal, sorted_p, 0.0).sum(1, keepdim=True)
    )


def uniforms(seed: int, prompt: str, sample: int, length: int) -> NDArray[np.float64]:
    """
    Return the uniform numbers in [0, 1) of one text, one per new token.

    Number ``i`` depends only on the run's seed, the prompt's text, the sample's number and ``i``
    (Philox is counter-based). So steered and unsteered texts of one prompt and sample share
    theirs, whatever else is in their batches, and different samples are independent.
    """
    digest = hashlib.blake2b(f"{seed}/{sample}/{prompt}".encode(), digest_size=16)
    key = int.from_bytes(digest.digest(), "little")
    return np.random.Generator(np.random.Philox(key=key)).random(length)
