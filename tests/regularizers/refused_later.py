"""What is refused in the first steps or when SAEs are linked, as docs/methods/matrix.md lists it."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import saereg_plugin as sr
from tests.regularizers.synthetic import (
    CONTEXT,
    D_IN,
    in_batches,
    small_sae,
    token_data,
)
from tests.regularizers.throwaway import Watcher
from tests.training import forward, make_trainer, run_steps

MUTUAL: dict[str, Any] = {
    "regularizers": [{"name": "mutual_features", "coefficient": 1.0}]
}


def temporal(rows: torch.Tensor, *others: Any, **settings: Any) -> None:
    """A step with the temporal difference; ``metadata`` among the settings is the SAE's."""
    metadata = settings.pop("metadata", {})
    penalty = {"name": "temporal_difference", "context_size": CONTEXT, **settings}
    sae = small_sae(regularizers=[penalty, *others])
    for key, value in metadata.items():
        sae.cfg.metadata[key] = value
    forward(sae, rows)


def without_order(_: Path) -> None:
    penalty = {"name": "temporal_difference", "context_size": CONTEXT}
    cfg: Any = small_sae(regularizers=[penalty]).cfg
    settings = sr.RunSettings(
        sae=cfg,
        model_name="dinov2-small",
        context_size=1,
        batch_size=2 * CONTEXT,
        mixing_fraction=0.0,
        source_kind="module",
        ordered=False,
    )
    cfg.regularizers[0].check_run(settings)


def shuffled(_: Path) -> None:
    rows = token_data(8)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    temporal(rows[order])


def without_starts(_: Path) -> None:
    temporal(token_data(8), metadata={"prepend_bos": False})


def without_special_tokens(_: Path) -> None:
    temporal(token_data(8), metadata={"exclude_special_tokens": True})


def sliced(_: Path) -> None:
    temporal(token_data(8), metadata={"seqpos_slice": (1, None)})


def of_two_tokens(_: Path) -> None:
    temporal(token_data(8), context_size=2)


def cut(_: Path) -> None:
    temporal(token_data(8)[:-1])


def of_one_context(_: Path) -> None:
    temporal(token_data(1))


def of_unknown_size(_: Path) -> None:
    temporal(token_data(8), context_size=None)


def of_another_size(_: Path) -> None:
    temporal(token_data(8), metadata={"context_size": CONTEXT + 1})


def with_fewer_rows(_: Path) -> None:
    temporal(token_data(8), Watcher(drop=1))


def single(_: Path) -> None:
    forward(small_sae(**MUTUAL), token_data(2))


def linked(**fields: Any) -> dict[str, Any]:
    saes = {"a": small_sae(**MUTUAL), "b": small_sae(**{**MUTUAL, **fields})}
    return sr.link_saes(saes)


def link_single(_: Path) -> None:
    sr.link_saes({"a": small_sae(**MUTUAL), "b": small_sae()})


def group_of_one_seed(_: Path) -> None:
    cfg: Any = small_sae(**MUTUAL).cfg
    settings = sr.RunSettings(
        sae=cfg, model_name="gpt2", context_size=8, batch_size=16, mixing_fraction=0.5
    )
    cfg.regularizers[0].check_run(settings)


def of_two_names(_: Path) -> None:
    sae = small_sae(**MUTUAL)
    sr.link_saes({"a": sae, "b": sae})


def linked_twice(_: Path) -> None:
    sr.link_saes({"a": linked()["a"], "c": small_sae(**MUTUAL)})


def deleted(_: Path) -> None:
    sae = linked()["a"]
    gc.collect()
    forward(sae, token_data(2))


def of_other_width(_: Path) -> None:
    linked(d_in=D_IN // 2)


def of_two_hooks(_: Path) -> None:
    saes = linked()
    for name, sae in saes.items():
        sae.cfg.metadata.hook_name = name
    forward(saes["a"], token_data(2))


def out_of_step(_: Path) -> None:
    saes = linked()
    run_steps(make_trainer(saes["a"], in_batches(token_data(8), 32)), 2)


def anchored(**settings: Any) -> None:
    anchor = {"name": "vocabulary_anchor", "top": 2, **settings}
    forward(small_sae(regularizers=[anchor]), token_data(2))


def embeddings(folder: Path, *shape: int) -> str:
    path = folder / "embeddings.safetensors"
    save_file({"wte.weight": torch.ones(shape)}, path)
    return str(path)


def without_embeddings(_: Path) -> None:
    anchored()


def of_other_embeddings(folder: Path) -> None:
    anchored(embeddings=embeddings(folder, 20, D_IN - 1))


def of_few_embeddings(folder: Path) -> None:
    anchored(embeddings=embeddings(folder, 20, D_IN), top=21)


def sparse_by_force(_: Path) -> None:
    sae = small_sae(sparse_step="always", dtype="bfloat16")
    forward(sae, token_data(2).bfloat16())


def penalised() -> Any:
    return small_sae(regularizers=[{"name": "weight_penalty", "coefficient": 1.0}])


def second_backward_pass(__: Path) -> None:
    sae = penalised()
    for _ in range(2):
        forward(sae, token_data(2)).loss.backward()


def second_forward_pass(__: Path) -> None:
    sae = penalised()
    first, _ = [forward(sae, token_data(2)).loss for _ in range(2)]
    first.backward()


NOT_WHOLE = (
    "`temporal_difference` with `prepend_bos=False`, `exclude_special_tokens`, a `seqpos_slice`, or "
    "contexts of fewer than 3 tokens"
)
NOT_TWO = "`temporal_difference` with a batch of other than two whole contexts or more"
ALONE = "`mutual_features` with a single SAE"

LATER: list[tuple[str, Callable[[Path], None], str]] = [
    (
        "`temporal_difference` on a source whose rows have no order",
        without_order,
        "the rows of the source of kind 'module' have no such order",
    ),
    ("`temporal_difference` without tokens in order", shuffled, "do not come in order"),
    (NOT_WHOLE, without_starts, "Set prepend_bos=True"),
    (NOT_WHOLE, without_special_tokens, "Set exclude_special_tokens=False"),
    (NOT_WHOLE, sliced, "Set seqpos_slice=(None,)"),
    (NOT_WHOLE, of_two_tokens, "context_size is 2; expected at least 3"),
    (NOT_TWO, cut, "is no multiple of context_size=8"),
    (NOT_TWO, of_one_context, "a single context of 8 tokens"),
    (
        "`temporal_difference` without a known `context_size`",
        of_unknown_size,
        "the length of a context is unknown",
    ),
    (
        "`temporal_difference` with another `context_size` than the SAE's metadata",
        of_another_size,
        "context_size is 8, but the SAE's metadata says 9",
    ),
    (
        "`temporal_difference` with another component that drops rows",
        with_fewer_rows,
        "another component takes rows out of the contexts",
    ),
    (ALONE, single, "linked to no other"),
    (ALONE, link_single, "of which 'a' has a regulariser"),
    (ALONE, group_of_one_seed, "trains a single one with it"),
    ("the same SAE linked under two names", of_two_names, "under two names"),
    ("SAEs linked twice, with others", linked_twice, "are linked with others already"),
    ("linked SAEs of which one was deleted", deleted, "deleted since"),
    ("linked SAEs of different d_in", of_other_width, "have different d_in"),
    ("linked SAEs of different hooks", of_two_hooks, "expected one hook"),
    (
        "linked SAEs that are out of step",
        out_of_step,
        "are not trained side by side",
    ),
    (
        "`vocabulary_anchor` without embeddings",
        without_embeddings,
        "does not say which model's embeddings to take",
    ),
    (
        "`vocabulary_anchor` with embeddings of another width",
        of_other_embeddings,
        "have 15 dimensions, the SAE has d_in=16",
    ),
    (
        "`vocabulary_anchor` with `top` above the number of embeddings",
        of_few_embeddings,
        "top is 21, but there are 20 embeddings",
    ),
    (
        '`sparse_step="always"` where the step has to be dense (half-precision weights, a hook '
        "point in use, activations of other than two dimensions)",
        sparse_by_force,
        "cannot be followed: it needs float32 or float64 weights",
    ),
    (
        "a second backward pass before the optimiser's step",
        second_backward_pass,
        "A second backward pass",
    ),
    (
        "another forward pass before the optimiser's step",
        second_forward_pass,
        "Another forward pass came between",
    ),
]
"""First cell of the page's second table, what is refused, and part of the message."""
