"""One latent's examples as lines, for people."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from eval_recipes.examples.reader import (
    TEXT,
    Example,
    InputExample,
    LatentExamples,
    SAEExamples,
    read_examples,
)
from saereg_plugin.errors import printable

_BARS = " ▁▂▃▄▅▆▇█"


def show_latent(path: str | Path, sae_id: str | None, latent: int) -> str:
    """
    Return density, histogram, logits and examples of one latent as text.

    The peak of an example is between » and «. Of an image or a clip that is its title, and
    where in it the latent fires most.

    Raises:
        InputError: see ``read_examples`` and ``SAEExamples.latent``.
    """
    opened = read_examples(path, sae_id)
    lines = latent_lines(opened.latent(latent))
    return printable("\n".join([*_head(opened), *lines]))


def _head(opened: SAEExamples) -> Iterator[str]:
    settings = opened.settings
    yield f"SAE {opened.sae_id} of {settings.get('release')}"
    what = "text" if opened.kind == TEXT else opened.kind
    yield f"{settings.get('hook_name')} of {settings.get('model')}, {what} {settings.get('corpus')}"


def latent_lines(latent: LatentExamples) -> list[str]:
    """Return one latent as lines; line breaks within tokens are shown as ``\\n``."""
    rows = "tokens" if latent.kind == TEXT else "rows"
    fires = (
        f"fires on {latent.active:,} of {latent.tokens:,} {rows} ({latent.density:.3%})"
    )
    if latent.mean_activation is None or latent.max_activation is None:
        return [f"Latent {latent.latent}: {fires}", *_logit_lines(latent)]
    lines = [
        f"Latent {latent.latent}: {fires}, mean {latent.mean_activation:.3g}, "
        f"max {latent.max_activation:.3g}",
        f"activations 0 |{_bars(latent.histogram_counts)}| {latent.histogram_edges[-1]:.3g}",
        *_logit_lines(latent),
    ]
    for band, examples in groupby(latent.examples, key=lambda example: example.band):
        lines += ["", band, *(_example_line(one, latent) for one in examples)]
    return lines


def _bars(counts: list[int]) -> str:
    """Return counts as a row of bars; a count above 0 is visible."""
    most = max(counts)
    steps = len(_BARS) - 1
    return "".join(_BARS[-(-count * steps // most)] for count in counts)


def _logit_lines(latent: LatentExamples) -> Iterator[str]:
    for name, logits in (("up", latent.top_logits), ("down", latent.bottom_logits)):
        if logits:
            listed = ", ".join(f"{token!r} {logit:+.2f}" for token, logit in logits)
            yield f"logits {name}: {listed}"


def _example_line(example: Example, latent: LatentExamples) -> str:
    if isinstance(example, InputExample):
        return f"{example.activation:8.3g}  {_line(_titled(example, latent))}"
    before = "".join(example.tokens[: example.peak])
    after = "".join(example.tokens[example.peak + 1 :])
    peak = example.tokens[example.peak]
    text = _line(f"{before}»{peak}«{after}")
    return f"{example.activation:8.3g}  {text}"


def _titled(example: InputExample, latent: LatentExamples) -> str:
    """Return title, class and number of an input, and the place of its peak."""
    label = "" if example.input.label is None else f", {example.input.label}"
    named = f"{example.input.title}{label} ({example.context})"
    if latent.grid is not None:
        down, right = divmod(example.peak, latent.grid[1])
        return f"{named}: row {down + 1}, column {right + 1} of the patches"
    if example.seconds is not None:
        return f"{named}: at {example.peak * example.seconds:.2f} s"
    return f"{named}: row {example.position}" if example.input.rows > 1 else named


def _line(text: str) -> str:
    """Return a text on one line."""
    return text.replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")
