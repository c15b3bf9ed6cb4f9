"""Every study's definition: sweeps that can be trained, claims whose groups and figures exist."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
import torch
from sae_lens import TopKSAE

from eval_recipes.commands.studies.study import study as commands
from eval_recipes.studies import (
    frequency_weighted,
    temporal,
    topk_regularizers,
    vocabulary,
    weight_regularization,
)
from eval_recipes.studies.catalogue import GRID_STUDIES, study_named
from eval_recipes.studies.framework.definition import (
    L0,
    VARIANCE,
    Scale,
    Study,
    StudyRun,
)
from eval_recipes.studies.framework.figures import LatentTally
from saereg_plugin.errors import InputError
from saereg_plugin.sweeps import SweepConfig, expand
from saereg_plugin.sweeps.config import group_fields
from tests.eval_recipes.studies.planted import planted_frame
from tests.eval_recipes.tiny_saes import D_SAE, tiny_sae

SMALL = [study_named(name) for name in GRID_STUDIES if name != "vision"]
"""Those on a language model; ``test_vision`` has the other one."""
PAPER = [s for s in SMALL if s.name not in ("topk-regularizers", "death", "distill")]


def candidates() -> pd.DataFrame:
    """What the first stage of topk-regularizers may find: small penalties cost nothing."""
    sweep = topk_regularizers.STUDY.plan("small").stages[0].sweep(pd.DataFrame())
    variances = {
        name: 0.8
        if "lambda" not in name or float(name.split("lambda")[1]) < 5e-4
        else 0.7
        for name in sweep.groups
    }
    figures = {name: {VARIANCE: [value]} for name, value in variances.items()}
    return planted_frame(figures, stage="choice")


def sweeps_of(study: Study, scale: Scale) -> list[tuple[bool, SweepConfig]]:
    """Every stage's sweep, and whether it is in the table."""
    plan = study.plan(scale)
    frame = candidates() if study.name == "topk-regularizers" else pd.DataFrame()
    return [(stage.in_table, stage.sweep(frame)) for stage in plan.stages]


@pytest.mark.parametrize("study", SMALL, ids=lambda study: study.name)
@pytest.mark.usefixtures("model_name")
def test_small_sweeps_can_be_trained_here(study: Study) -> None:
    for _, sweep in sweeps_of(study, "small"):
        members = expand(sweep)
        assert 0 < len(members) <= 45
        assert sweep.corpus == "embedded"
        # half an hour on two cores: 40 ms a step at d_sae 2,048, 4,000 tokens a second
        widths = sum(member.cfg.d_sae for member in members) / 2048
        assert sweep.steps * widths * 0.04 + sweep.tokens / 4000 < 20 * 60


@pytest.mark.parametrize("study", PAPER, ids=lambda study: study.name)
def test_paper_sweeps_are_of_the_papers_model(study: Study) -> None:
    for _, sweep in sweeps_of(study, "paper"):
        assert sweep.model in ("gemma-2-2b", "gemma-2b", "pythia-70m-deduped", "gpt2")
        assert sweep.corpus == "monology/pile-uncopyrighted"
        assert group_fields(sweep)


@pytest.mark.parametrize(
    ("study", "scale"),
    [(study, "small") for study in SMALL] + [(study, "paper") for study in PAPER],
    ids=lambda value: getattr(value, "name", value),
)
def test_claims_are_about_groups_and_figures_that_exist(
    study: Study, scale: Scale
) -> None:
    groups = {
        name
        for in_table, sweep in sweeps_of(study, scale)
        if in_table
        for name in group_fields(sweep)
    }
    claims = study.claims(scale)
    titles = [column.title for column in study.columns]
    assert len(set(titles)) == len(titles)
    assert claims
    for claim in claims:
        assert {claim.group, claim.other} <= groups
        assert claim.group != claim.other
        assert claim.figure in titles
        assert claim.beside is None or claim.beside in titles
    texts = [claim.text for claim in claims]
    assert len(set(texts)) == len(texts)


@pytest.mark.usefixtures("model_name")
def test_weight_regularization_varies_one_factor_at_a_time() -> None:
    ((_, sweep),) = sweeps_of(weight_regularization.STUDY, "small")
    groups = group_fields(sweep)
    assert len(groups) * len(sweep.seeds) <= 21
    # as they are built: what a field given as "auto" becomes may depend on another
    built: dict[str, dict[str, Any]] = {}
    for member in expand(sweep):
        cfg = member.cfg.to_dict()
        details = cfg.pop("metadata")["training_architecture_details"]
        if member.seed == 0:
            built[member.group] = {**cfg, **details}

    def differing(a: str, b: str) -> set[str]:
        return {key for key in built[a] if built[a][key] != built[b][key]}

    assert built["none"]["k"] == 32
    assert built["none"]["rescale_acts_by_decoder_norm"] is False
    assert {cfg["decoder_init_norm"] for cfg in built.values()} == {1.0}
    assert differing("l1", "none") == differing("l2", "none") == {"regularizers"}
    assert differing("l2-decoupled", "l2") == {"regularizers"}
    assert differing("l2-free", "l2") == {"decoder_constraint"}
    assert differing("l2-k64", "l2") == differing("none-k64", "none") == {"k"}
    assert differing("l2-k64", "none-k64") == {"regularizers"}


@pytest.mark.parametrize(
    ("study", "scale"),
    [
        (frequency_weighted.STUDY, "small"),
        (temporal.STUDY, "small"),
        (temporal.STUDY, "paper"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_claims_at_unequal_l0_say_so(study: Study, scale: Scale) -> None:
    for claim in study.claims(scale):
        assert claim.beside == (None if claim.figure == L0.title else L0.title)


def test_only_claims_at_the_papers_coefficients_are_called_the_papers() -> None:
    claims = vocabulary.STUDY.claims("small")
    assert {claim.group for claim in claims if claim.source == "paper"} == {
        *("anchor0.0001", "anchor0.005")
    }
    assert {claim.group for claim in claims if claim.source == "adapted"} == {
        *("anchor0.5", "anchor5")
    }
    assert {claim.source for claim in topk_regularizers.STUDY.claims("small")} == {
        *("adapted", "ours")
    }


@pytest.mark.parametrize("study", PAPER, ids=lambda study: study.name)
@pytest.mark.parametrize("scale", ["small", "paper"])
def test_every_evaluation_that_is_run_is_shown(study: Study, scale: Scale) -> None:
    shown = {column.eval for column in study.columns}
    for stage in study.plan(scale).stages:
        assert set(stage.evals) <= shown


@pytest.mark.parametrize("study", SMALL, ids=lambda study: study.name)
def test_published_numbers_stand_beside_a_row_and_a_column(study: Study) -> None:
    groups = {name for _, sweep in sweeps_of(study, "small") for name in sweep.groups}
    titles = {column.title for column in study.columns}
    for number in study.published("small"):
        assert number.group in groups
        assert number.column in titles


def test_temporal_training_has_one_document_a_context() -> None:
    for scale in ("small", "paper"):
        for _, sweep in sweeps_of(temporal.STUDY, scale):
            assert sweep.disable_concat_sequences
            assert sweep.mixing_fraction == 0


def test_paper_scale_of_weight_regularization_is_the_whole_grid() -> None:
    sweeps = [sweep for _, sweep in sweeps_of(weight_regularization.STUDY, "paper")]
    names = [name for sweep in sweeps for name in group_fields(sweep)]
    # none has no mode: 2 decoders; l1 and l2 have 2 decoders x 2 modes; 4 k
    assert len(names) == len(set(names)) == 4 * (2 + 2 * 4)
    assert all(list(sweep.seeds) == [0, 1, 2] for sweep in sweeps)


def test_lambda_is_chosen_from_the_first_stage_and_trained_in_the_second() -> None:
    found = topk_regularizers.choices(candidates())
    assert {choice.name: choice.coefficient for choice in found} == {
        f"k{k}-{method}": 3e-4
        for k in (32, 64, 128)
        for method in ("off-support", "ratio")
    }
    (_, first), (_, final) = sweeps_of(topk_regularizers.STUDY, "small")
    assert set(first.seeds).isdisjoint(final.seeds)
    fields = group_fields(final)
    assert len(fields) == 15
    (off,), (ratio,) = (
        fields[f"k64-{method}"]["regularizers"] for method in ("off-support", "ratio")
    )
    assert off["coefficient"] == pytest.approx(3e-4 * 24)
    assert ratio["coefficient"] == pytest.approx(3e-4 * 576)
    (unmasked,) = fields["k64-off-support-unmasked"]["regularizers"]
    assert {**unmasked, "mask": "batch_active"} == off


def test_a_candidate_without_a_figure_is_named() -> None:
    frame: Any = candidates()
    frame = frame.loc[frame["group"] != "k64-ratio-lambda0.001"]
    with pytest.raises(
        InputError, match="'k64-ratio-lambda0.001' has no explained variance"
    ):
        topk_regularizers.choices(frame)


@pytest.mark.parametrize("study", SMALL, ids=lambda study: study.name)
def test_studies_whose_auxk_cannot_act_say_so(study: Study) -> None:
    """SAELens revives latents that have not fired for ``dead_feature_window`` steps."""
    said = any("AuxK does not act" in note for note in study.notes)
    for _, sweep in sweeps_of(study, "small"):
        has_auxk = any(
            "topk" in fields.get("architecture", "")
            for fields in group_fields(sweep).values()
        )
        acts = sweep.dead_feature_window < sweep.steps
        assert said == (has_auxk and not acts)


def test_vision_study_refuses_the_scale_it_cannot_run() -> None:
    with pytest.raises(InputError, match="has no paper scale.*CLIP"):
        topk_regularizers.STUDY.plan("paper")


def test_every_study_is_a_command() -> None:
    names = {command.name for command in commands.registered_commands}
    assert names >= {"mnist", *GRID_STUDIES}
    with pytest.raises(
        InputError, match="Unknown study 'temporl'. Did you mean 'temporal'"
    ):
        study_named("temporl")


def test_only_stages_of_the_table_are_judged() -> None:
    study = topk_regularizers.STUDY
    both = pd.concat([candidates(), planted_frame({"k32-ratio": {L0: [1.0]}})])
    run = StudyRun(study, "small", study.plan("small"), frame=both)
    assert set(run.table_frame["group"]) == {"k32-ratio"}


@torch.no_grad()
def test_latent_figures_equal_plain_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    sae: TopKSAE = tiny_sae("model", "hook", torch.zeros(12), seed=1)
    sae.b_dec.data = torch.randn(12, generator=generator)
    acts = torch.randn(3, 7, 12, generator=generator)
    keep = torch.ones(3, 7, dtype=torch.bool)
    keep[:, 0] = False
    keep[1, 4] = False
    tally = LatentTally(sae)
    tally.update(acts[:2], keep[:2])
    tally.update(acts[2:], keep[2:])
    found = tally.figures()

    dropped = total = ratio = changed = squares = moved = supports = 0.0
    tokens = 0
    for context, kept in zip(acts, keep):
        previous: torch.Tensor | None = None
        for x, is_kept in zip(context, kept):
            if not is_kept:
                previous = None
                continue
            pre = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
            a = pre.clamp(min=0)
            best = sorted(range(D_SAE), key=lambda j: -float(a[j]))[:8]
            z = torch.zeros(D_SAE)
            z[best] = a[best]
            dropped += float((a - z).sum())
            total += float(a.sum())
            ratio += float(a.sum() / a.norm())
            tokens += 1
            if previous is not None:
                changed += float((z - previous).square().sum())
                squares += float(z.square().sum() + previous.square().sum())
                moved += int(((z > 0) != (previous > 0)).sum())
                supports += int((z > 0).sum() + (previous > 0).sum())
            previous = z
    assert found == {
        "off_support_share": pytest.approx(dropped / total, rel=1e-5),
        "l1_l2_ratio": pytest.approx(ratio / tokens, rel=1e-5),
        "token_change": pytest.approx(changed / squares, rel=1e-5),
        "support_change": pytest.approx(moved / supports, rel=1e-5),
    }
    assert 0 < dropped < total
    assert 0 < changed < squares
