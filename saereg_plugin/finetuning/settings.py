"""Settings of a fine-tune, and the sweep they make."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from saereg_plugin.checks import checked_dataclass
from saereg_plugin.errors import InputError
from saereg_plugin.finetuning.contexts import Order
from saereg_plugin.finetuning.losses import Loss, Objective
from saereg_plugin.finetuning.saved_sae import SavedSAE, member_of, read_saved
from saereg_plugin.machine import AUTO
from saereg_plugin.releases.release import Entry, Release
from saereg_plugin.sources import corpora
from saereg_plugin.sweeps.config import MAX_COUNT, SweepConfig, group_fields
from saereg_plugin.sweeps.matched import sweep_of
from saereg_plugin.sweeps.members import Member
from saereg_plugin.sweeps.source import LANGUAGE_MODEL, kind_of_source, rows_read

DEFAULT_TOKENS = 1_000_000
"""Tokens of a fine-tune of SAEs whose training tokens are not known."""
SHARE = 0.05
"""Share of the training tokens that a fine-tune takes (arXiv 2503.17272: 3 to 5 %)."""
_UNKNOWN_STEPS = 1_000_000_000
"""Steps of a training of unknown length: every schedule is at its end."""

Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]


@checked_dataclass
class FineTune:
    """A fine-tune of every SAE of a release; what is None is as the release was trained."""

    loss: Loss = "kl+mse"
    """"mse" (the control), "kl", "kl+mse" or "e2e"."""
    tokens: Count | None = None
    """By default a twentieth of the training tokens, or a million where these are not known."""
    lr: Annotated[float, Field(gt=0)] = 5e-5
    """Learning rate of AdamW; it falls linearly to 0."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Weight decay of AdamW, as arXiv 2503.17272's code has it."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the order of contexts."""
    context_size: Count | None = None
    """Tokens in one context of the language model."""
    contexts_per_step: Count = 8
    """Contexts in one optimiser step."""
    skip_tokens: Annotated[int, Field(ge=0, le=MAX_COUNT)] | None = None
    """Tokens of the text that are skipped; by default those that the training read."""
    corpus: str | None = None
    """Text, as for ``SweepConfig``."""
    llm_dtype: str | None = None
    """Data type of the language model."""
    device: str = AUTO
    """Torch device, or "auto"."""
    kl_coefficient: Annotated[float, Field(ge=0)] = 0.5
    """Of "e2e": weight of the KL divergence."""
    downstream_coefficient: Annotated[float, Field(ge=0)] = 2.5
    """Of "e2e": weight of the mean squared error of later layers; 0 leaves it out."""
    mse_coefficient: Annotated[float, Field(ge=0)] = 0.0
    """Of "e2e": weight of the squared error at the hook itself, mean over dimensions."""
    sae_ids: Sequence[str] = ()
    """SAEs by id or shell pattern; by default all."""
    sae_fields: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the SAEs' training that the release does not have, or that replace its own."""
    suffix: str = ""
    """Added to the names of groups and SAEs."""
    log_every: Count = 25
    """Steps between training records."""
    checkpoint_every: Count = 250
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        """Refuse an e2e loss without a part."""
        parts = (self.kl_coefficient, self.downstream_coefficient, self.mse_coefficient)
        if self.loss == "e2e" and not any(parts):
            raise InputError(
                "loss='e2e' with kl_coefficient=0, downstream_coefficient=0 and mse_coefficient=0 trains "
                "nothing; expected one above 0."
            )

    @property
    def objective(self) -> Objective:
        """The loss in place of the MSE."""
        return Objective(
            self.loss,
            kl=self.kl_coefficient,
            downstream=self.downstream_coefficient,
            mse=self.mse_coefficient,
        )


@dataclass(frozen=True)
class Prepared:
    """
    A fine-tune with what it starts from.

    Attributes:
        sweep: the sweep of a release that is written.
        members: SAEs of it.
        saved: SAEs to start from, by id.
        order: which text is read.
        trained_steps: steps of the training before.
    """

    sweep: SweepConfig
    members: list[Member]
    saved: dict[str, SavedSAE]
    order: Order
    trained_steps: int


def prepare(release: Release, name: str, settings: FineTune, device: str) -> Prepared:
    """
    Read the SAEs of a release, and make the sweep of their fine-tune.

    Args:
        release: opened.
        name: as it was given, for messages.
        settings: of the fine-tune.
        device: on which SAEs are built.

    Raises:
        InputError: if the SAEs are not of a language model's hook, or it is not known how they were
            trained.
    """
    read = [read_saved(release, each) for each in release.select(settings.sae_ids)]
    saved = {_renamed(one.entry, settings.suffix).sae_id: one for one in read}
    recorded = sweep_of(release)
    base = _base(recorded, saved, name)
    fields = {} if recorded is None else group_fields(recorded)
    members: list[Member] = []
    for one in saved.values():
        group = fields.get(one.entry.group)
        point = _point_of(one, base, group)
        member = member_of(one, group, settings.sae_fields, point=point, device=device)
        entry = _renamed(one.entry, settings.suffix)
        members.append(
            dataclasses.replace(member, sae_id=entry.sae_id, group=entry.group)
        )
    earlier = _earlier(base, known=recorded is not None)
    sweep = _sweep(base, members, settings, release, saved, earlier)
    per_batch = sweep.prompts_per_pass * sweep.context_size
    return Prepared(
        sweep,
        members,
        saved,
        Order(first=sweep.finetune["skip_tokens"] // per_batch, seed=settings.seed),
        sweep.finetune["trained_steps"],
    )


def _base(
    recorded: SweepConfig | None, saved: Mapping[str, SavedSAE], name: str
) -> SweepConfig:
    """Return the sweep of a release, or one with what the SAEs' metadata say."""
    if recorded is not None:
        if kind_of_source(recorded) != LANGUAGE_MODEL:
            raise InputError(
                f"The SAEs of release {name!r} are of a source of kind {kind_of_source(recorded)!r}; expected "
                "those of a language model, whose logits the loss compares."
            )
        return recorded
    first = next(iter(saved.values()))
    known = first.metadata
    if not known.get("model_name"):
        raise InputError(
            f"SAE {first.entry.sae_id!r} does not name its language model; expected metadata with model_name, "
            "hook_name and context_size. Add them to the metadata in its cfg.json."
        )
    if any(tuple(known.get("seqpos_slice") or ())):
        raise InputError(
            f"SAE {first.entry.sae_id!r} was trained on positions {known['seqpos_slice']} alone, which a "
            "fine-tune cannot keep to; expected SAEs of all positions. Leave it out with --sae-id."
        )
    given = {
        "model": known["model_name"],
        "context_size": known.get("context_size") or SweepConfig.context_size,
        "prepend_bos": known.get("prepend_bos"),
        "exclude_special_tokens": bool(known.get("exclude_special_tokens")),
        "disable_concat_sequences": known.get("disable_concat_sequences"),
        "corpus": known.get("dataset_path") or corpora.EMBEDDED,
    }
    values: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    return SweepConfig(sae={}, tokens=1, batch_size=1, **values)


def _point_of(
    saved: SavedSAE, base: SweepConfig, group: Mapping[str, Any] | None
) -> str:
    """Return the hook of an SAE; refuse single heads."""
    if group is not None:
        point = group.get("hook_name", base.hook_name)
    else:
        point = saved.metadata.get("hook_name") or saved.cfg.get("hook_name")
    if saved.metadata.get("hook_head_index") is not None or not isinstance(point, str):
        raise InputError(
            f"SAE {saved.entry.sae_id!r} is of a single head, or names no hook; expected one of a whole hook. "
            "Leave it out with --sae-id."
        )
    return point


@dataclass(frozen=True)
class _Earlier:
    """Lengths of the training before a fine-tune."""

    tokens: int | None
    steps: int
    read: int


def _earlier(base: SweepConfig, *, known: bool) -> _Earlier:
    """Return how long SAEs were trained, fine-tunes before this one included."""
    if not known:
        return _Earlier(None, _UNKNOWN_STEPS, 0)
    before = base.finetune
    if before:
        return _Earlier(
            before["trained_tokens"],
            before["trained_steps"] + base.steps,
            before["skip_tokens"] + base.tokens,
        )
    return _Earlier(base.tokens, base.steps, rows_read(base))


def _sweep(
    base: SweepConfig,
    members: Sequence[Member],
    settings: FineTune,
    release: Release,
    saved: Mapping[str, SavedSAE],
    earlier: _Earlier,
) -> SweepConfig:
    """Return the sweep that the release of a fine-tune records."""
    context = settings.context_size or base.context_size
    batch = settings.contexts_per_step * context
    tokens = settings.tokens
    if tokens is None:
        share = DEFAULT_TOKENS if earlier.tokens is None else earlier.tokens * SHARE
        tokens = max(batch, int(share))
    if tokens < batch:
        raise InputError(
            f"tokens={tokens} is less than one step of {settings.contexts_per_step} contexts of {context} "
            "tokens; nothing would be trained. Raise --tokens, or lower --contexts-per-step."
        )
    skip = settings.skip_tokens
    objective = dataclasses.asdict(settings.objective)
    steps = tokens // batch
    return dataclasses.replace(
        base,
        sae={},
        groups=_groups(members),
        grid={},
        seeds=sorted({member.seed for member in members}),
        hook_name=members[0].point,
        corpus=settings.corpus or base.corpus,
        tokens=tokens,
        batch_size=batch,
        context_size=context,
        prompts_per_pass=settings.contexts_per_step,
        buffer_tokens=batch,
        mixing_fraction=0.0,
        text_tokens=0,
        llm_dtype=settings.llm_dtype or base.llm_dtype,
        autocast=False,
        lr=settings.lr,
        lr_warm_up_steps=0,
        lr_decay_fraction=0.0,
        dead_feature_window=max(1, min(base.dead_feature_window, steps // 2)),
        device=settings.device,
        seed=settings.seed,
        log_every=settings.log_every,
        checkpoint_every=settings.checkpoint_every,
        matched_to={},
        finetune={
            "release": release.name,
            "weights": {one.entry.sae_id: one.digest() for one in saved.values()},
            **(objective if settings.loss == "e2e" else {"loss": settings.loss}),
            "optimizer": "AdamW",
            "weight_decay": settings.weight_decay,
            "lr_schedule": "linear to 0",
            "skip_tokens": earlier.read if skip is None else skip,
            "trained_tokens": earlier.tokens,
            "trained_steps": earlier.steps,
        },
    )


def _groups(members: Sequence[Member]) -> dict[str, dict[str, Any]]:
    """Return the fields of each group, as a sweep writes them."""
    found: dict[str, dict[str, Any]] = {}
    several = len({member.point for member in members}) > 1
    for member in members:
        cfg: Any = member.cfg
        fields = {
            key: value
            for key, value in cfg.to_dict().items()
            if key not in ("metadata", "device", "init_seed")
        }
        own = {"hook_name": member.point} if several else {}
        found.setdefault(_group_name(member.group), {**fields, **own})
    return found


def _renamed(entry: Entry, suffix: str) -> Entry:
    """Return the entry of an SAE with a suffix to its group, and to its id."""
    group = entry.group + suffix
    own = (
        f"{group}-seed{entry.seed}"
        if entry.sae_id == f"{entry.group}-seed{entry.seed}"
        else entry.sae_id + suffix
    )
    return dataclasses.replace(entry, sae_id=own, group=group)


def _group_name(name: str) -> str:
    """Return the name of a group with a sweep's characters."""
    return re.sub(r"[^\w.+-]", "-", name)
