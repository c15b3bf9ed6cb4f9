"""The sparse training step against SAELens' dense one, and when it is taken."""

from __future__ import annotations

import dataclasses
import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE, TrainingSAE, TrainingSAEConfig
from sae_lens.saes.sae import TrainStepOutput

import saereg_plugin as sr
from saereg_plugin.architectures.sparse_step import SparseStepOutput
from saereg_plugin.kernels import screening
from saereg_plugin.machine import fast_dtype
from tests.regularizers.throwaway import NoisyFiring
from tests.training import (
    BATCH,
    D_SAE,
    TOPK_ARCHITECTURES,
    assert_same_optimizer,
    assert_same_state,
    batches,
    forward,
    make_cfg,
    make_sae,
    make_stock_sae,
    make_trainer,
    run_steps,
)

AUX = "auxiliary_reconstruction_loss"
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "topk": ("topk", {}),
    "batchtopk": ("batchtopk", {}),
    "matryoshka": ("matryoshka_batchtopk", {}),
    "matryoshka_aux": ("matryoshka_batchtopk", {"use_matryoshka_aux_loss": True}),
}
VARIANTS = [
    pytest.param(
        kind,
        {"rescale_acts_by_decoder_norm": rescale, "apply_b_dec_to_input": centred},
        id=f"{kind}-rescale_{rescale}-b_dec_{centred}",
    )
    for kind, rescale, centred in product(KINDS, (True, False), (True, False))
]
SLOW_VARIANTS = [
    pytest.param(
        kind,
        {"rescale_acts_by_decoder_norm": both, "apply_b_dec_to_input": both},
        id=f"{kind}-{both}",
    )
    for kind, both in [*((kind, True) for kind in KINDS), ("topk", False)]
]
SLOW_D_IN, SLOW_BATCH = 96, 64
"""For 100 steps: the first dimensions of the activations, in small batches."""
SPARSE_STEPS = ("always", "screened")
HOOKS = ("hook_sae_input", "hook_sae_acts_pre", "hook_sae_acts_post", "hook_sae_recons")


def auto_sae(architecture: str = "topk", **fields: Any) -> Any:
    """An SAE that chooses for itself."""
    return make_sae(architecture, sparse_step="auto", **fields)


def pair(kind: str, **fields: Any) -> tuple[Any, Any]:
    """SAELens' own SAE and ours with the same weights, whose steps are all sparse."""
    architecture, own = KINDS[kind]
    sparse_step = fields.pop("sparse_step", "always")
    stock = make_stock_sae(architecture, **own, **fields)
    return stock, make_sae(architecture, sparse_step=sparse_step, **own, **fields)


def relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Frobenius distance relative to ``expected``."""
    difference = actual.detach().double() - expected.detach().double()
    return float(difference.norm() / expected.detach().double().norm())


def fired(output: TrainStepOutput) -> torch.Tensor:
    acts = output.feature_acts.detach()
    return (acts.to_dense() if acts.is_sparse else acts) > 0


def assert_same_outputs(
    ours: TrainStepOutput, stock: TrainStepOutput, tolerance: float
) -> None:
    assert_same_losses(ours, stock, tolerance)
    assert relative(ours.sae_out, stock.sae_out) <= tolerance


def assert_same_losses(
    ours: TrainStepOutput, stock: TrainStepOutput, tolerance: float
) -> None:
    assert ours.losses.keys() == stock.losses.keys()
    assert ours.metrics.keys() == stock.metrics.keys()
    for name, expected in (("loss", stock.loss), *stock.losses.items()):
        actual = ours.loss if name == "loss" else ours.losses[name]
        assert actual.dtype == expected.dtype, name
        assert abs(float(actual.detach() - expected.detach())) <= tolerance * float(
            expected.detach()
        ), name


def assert_same_weights(ours: Any, stock: Any, tolerance: float) -> None:
    for name, parameter in stock.named_parameters():
        assert relative(ours.get_parameter(name), parameter) <= tolerance, name
    if hasattr(stock, "topk_threshold"):
        assert stock.topk_threshold > 0
        assert relative(ours.topk_threshold, stock.topk_threshold) <= tolerance


def assert_double_steps_are_saelens_own(
    stock: Any, ours: Any, activations: torch.Tensor, size: int, steps: int, window: int
) -> None:
    trainers = [
        make_trainer(
            sae,
            batches(activations, size),
            batch_size=size,
            steps=steps,
            dead_feature_window=window,
        )
        for sae in (stock, ours)
    ]
    start = stock.W_dec.detach().clone()
    auxiliary = 0.0
    for _ in range(steps):
        (theirs,), (mine,) = (run_steps(trainer, 1) for trainer in trainers)
        assert ours.took_sparse_step
        assert_same_outputs(mine, theirs, 1e-10)
        assert torch.equal(fired(mine), fired(theirs))
        torch.testing.assert_close(
            mine.feature_acts.to_dense(), theirs.feature_acts, rtol=1e-8, atol=1e-9
        )
        auxiliary = max(auxiliary, float(theirs.losses[AUX].detach()))
    assert auxiliary > 0
    assert relative(stock.W_dec, start) > 0.1
    assert_same_weights(ours, stock, 1e-9)
    for name in ("n_forward_passes_since_fired", "act_freq_scores"):
        values = [getattr(trainer, name) for trainer in trainers]
        assert torch.equal(*values), name
        assert values[0].any()


@pytest.mark.parametrize(("kind", "fields"), VARIANTS)
def test_twelve_steps_in_double_precision_are_saelens_own(
    kind: str, fields: dict[str, Any], activations: torch.Tensor
) -> None:
    """Rounding is out of the way here: any other formula would show."""
    saes = pair(kind, dtype="float64", **fields)
    assert_double_steps_are_saelens_own(*saes, activations, 32, 12, 5)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "fields"), SLOW_VARIANTS)
def test_a_hundred_steps_in_double_precision_are_saelens_own(
    kind: str, fields: dict[str, Any], activations: torch.Tensor
) -> None:
    """
    Free-running, at the size of the float32 test below.

    In float32 no two implementations stay together for 200 steps: where two
    pre-activations tie up to rounding they choose differently, and Adam makes a step of
    size lr of that. SAELens against itself, weights moved by 1e-7, is 1 % off by then.
    """
    saes = pair(kind, dtype="float64", d_in=SLOW_D_IN, **fields)
    x = activations[:, :SLOW_D_IN]
    assert_double_steps_are_saelens_own(*saes, x, SLOW_BATCH, 100, 20)


@pytest.mark.slow
@pytest.mark.parametrize("sparse_step", SPARSE_STEPS)
@pytest.mark.parametrize("kind", ["topk", "batchtopk", "matryoshka"])
def test_a_hundred_steps_in_float32_end_where_saelens_does(
    kind: str, sparse_step: str, activations: torch.Tensor
) -> None:
    """
    Left alone for 100 steps, in float32.

    At this step size hardly any selection is so close to a tie that rounding decides it,
    whatever the processor: after one that is, ours goes on from SAELens' state. At ten times
    the step size more are, and SAELens' own runs part, too, if one starts 1e-7 away.
    """
    size, steps, lr = SLOW_BATCH, 100, 1e-4
    saes = pair(kind, d_in=SLOW_D_IN, sparse_step=sparse_step)
    trainers = [
        make_trainer(
            sae,
            batches(activations[:, :SLOW_D_IN], size),
            batch_size=size,
            steps=steps,
            lr=lr,
            lr_end=lr,
            dead_feature_window=1000,
        )
        for sae in saes
    ]
    start = saes[0].W_dec.detach().clone()
    ties = 0
    for _ in range(steps):
        (theirs,), (mine,) = (run_steps(trainer, 1) for trainer in trainers)
        different = fired(mine) != fired(theirs)
        if different.any():
            assert_at_the_edge(kind, theirs, different)
            adopt(trainers[1], trainers[0])
            ties += 1
        else:
            assert_same_losses(mine, theirs, 1e-5)
            assert_same_weights(saes[1], saes[0], 1e-4)
    assert ties <= 2
    assert relative(saes[0].W_dec, start) > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("sparse_step", SPARSE_STEPS)
@pytest.mark.parametrize(("kind", "fields"), SLOW_VARIANTS)
def test_each_of_a_hundred_steps_equals_saelens_own_to_rounding(
    kind: str, fields: dict[str, Any], sparse_step: str, activations: torch.Tensor
) -> None:
    """
    In float32, from the 100 states that SAELens' own training goes through.

    Where the two select different latents, these are ties up to rounding, and few.
    """
    size, steps = SLOW_BATCH, 100
    stock, ours = pair(kind, d_in=SLOW_D_IN, sparse_step=sparse_step, **fields)
    trainers = [
        make_trainer(
            sae,
            batches(activations[:, :SLOW_D_IN], size),
            batch_size=size,
            steps=steps,
            dead_feature_window=20,
        )
        for sae in (stock, ours)
    ]
    auxiliary, swapped = 0.0, 0
    for _ in range(steps):
        (theirs,), (mine,) = (run_steps(trainer, 1) for trainer in trainers)
        assert ours.took_sparse_step
        assert_same_losses(mine, theirs, 1e-5)
        different = fired(mine) != fired(theirs)
        if different.any():
            assert_at_the_edge(kind, theirs, different)
            swapped += int(different.sum())
        else:
            assert relative(mine.sae_out, theirs.sae_out) <= 1e-5
            assert_same_weights(ours, stock, 1e-4)
            for name in ("n_forward_passes_since_fired", "act_freq_scores"):
                values = [getattr(trainer, name) for trainer in trainers]
                assert torch.equal(*values), name
        auxiliary = max(auxiliary, float(theirs.losses[AUX].detach()))
        adopt(trainers[1], trainers[0])
    assert auxiliary > 0
    assert swapped <= 1e-4 * steps * size * 8


def adopt(ours: Any, stock: Any) -> None:
    """Give our trainer the state of SAELens' trainer."""
    for name, parameter in stock.sae.named_parameters():
        own = ours.sae.get_parameter(name)
        own.data.copy_(parameter.data)
        for key, value in stock.optimizer.state[parameter].items():
            ours.optimizer.state[own][key].copy_(value)
    if hasattr(stock.sae, "topk_threshold"):
        ours.sae.topk_threshold = stock.sae.topk_threshold.clone()
    for name in ("n_forward_passes_since_fired", "act_freq_scores"):
        getattr(ours, name).copy_(getattr(stock, name))


def assert_at_the_edge(
    kind: str, dense: TrainStepOutput, different: torch.Tensor
) -> None:
    """Each pair that one step selects and the other does not is a tie up to rounding."""
    acts, hidden = dense.feature_acts.detach(), dense.hidden_pre.detach()
    smallest = torch.where(acts > 0, acts, torch.inf)
    edge = smallest.amin(dim=1, keepdim=True) if kind == "topk" else smallest.amin()
    gap = (hidden - edge).abs()[different]
    assert (gap <= 1e-5 * hidden.abs().max()).all()


@pytest.mark.parametrize("kind", ["batchtopk", "matryoshka_aux"])
def test_k_of_a_batch_may_be_fractional(kind: str, activations: torch.Tensor) -> None:
    stock, ours = pair(kind, dtype="float64", k=7.3)
    outputs = [forward(sae, activations[:33]) for sae in (stock, ours)]
    assert fired(outputs[0]).sum() == int(7.3 * 33)
    assert torch.equal(fired(outputs[1]), fired(outputs[0]))
    assert_same_outputs(outputs[1], outputs[0], 1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_the_input(kind: str, activations: torch.Tensor) -> None:
    """As in SAELens' step, for whoever trains through an SAE."""
    gradients: list[torch.Tensor] = []
    for sae in pair(kind, dtype="float64"):
        x = activations[:16].double().requires_grad_()
        forward(sae, x, torch.arange(D_SAE) % 3 == 0).loss.backward()
        assert x.grad is not None
        gradients.append(x.grad)
    assert relative(gradients[1], gradients[0]) < 1e-12


@pytest.mark.parametrize("sparse_step", SPARSE_STEPS)
@pytest.mark.parametrize("kind", KINDS)
def test_output_is_a_sparse_matrix_with_its_active_latents(
    kind: str, sparse_step: str, activations: torch.Tensor
) -> None:
    stock, ours = pair(kind, sparse_step=sparse_step)
    dense, output = (forward(sae, activations[:BATCH]) for sae in (stock, ours))
    assert isinstance(output, SparseStepOutput) and output.active is not None
    assert output.feature_acts.is_sparse and not output.feature_acts.requires_grad
    assert output.hidden_pre.shape == (0, D_SAE)
    torch.testing.assert_close(
        output.feature_acts.to_dense(), dense.feature_acts, rtol=1e-5, atol=1e-5
    )
    values = output.active.values
    selected = output.active.selected
    torch.testing.assert_close(
        values, dense.feature_acts[selected.rows, selected.latents]
    )
    # rescaled activations carry the gradient of the decoder's norms
    values.square().sum().backward()
    dense.feature_acts.square().sum().backward()
    for name in ("W_enc", "b_enc", "W_dec"):
        gradients = [sae.get_parameter(name).grad for sae in (ours, stock)]
        assert relative(*gradients) < 1e-5, name


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_autocast_trains_as_saelens_under_autocast(
    kind: str, activations: torch.Tensor
) -> None:
    stock, ours = pair(kind)
    trainers = [
        make_trainer(
            sae, batches(activations, 128), batch_size=128, steps=100, autocast=True
        )
        for sae in (stock, ours)
    ]
    dense, sparse = (run_steps(trainer, 100) for trainer in trainers)
    assert sparse[0].losses.keys() == dense[0].losses.keys()
    for name, expected in dense[0].losses.items():
        assert abs(float(sparse[0].losses[name] - expected)) <= 0.01 * float(expected)
    assert any(output.losses[AUX] > 0 for output in sparse)
    last = [
        torch.stack([output.loss.detach() for output in outputs[-10:]]).mean()
        for outputs in (dense, sparse)
    ]
    assert abs(last[1] - last[0]) < 0.02 * last[0]
    assert last[0] < 0.7 * dense[0].loss


def test_autocast_ranks_latents_by_products_of_lower_precision(
    activations: torch.Tensor,
) -> None:
    stock, ours = pair("topk")
    with torch.autocast("cpu", torch.bfloat16):
        dense, output = (forward(sae, activations[:BATCH]) for sae in (stock, ours))
    exact = forward(stock, activations[:BATCH])
    assert ours.took_sparse_step
    assert output.loss.dtype == torch.float32
    assert not torch.equal(fired(output), fired(exact))
    # bfloat16 has ties in plenty, and each step breaks them its own way
    ranked = dense.hidden_pre.detach().float()
    edge = ranked.topk(8).values[:, -1:]
    chosen = torch.where(fired(output), ranked, torch.inf)
    largest = ranked.abs().amax(dim=1, keepdim=True)
    assert (chosen >= edge - 2**-6 * largest).all()
    assert relative(output.loss, dense.loss) < 0.01


@pytest.mark.parametrize("sparse_step", SPARSE_STEPS)
@pytest.mark.parametrize(
    ("kind", "mask"),
    [
        ("topk", "none"),
        ("topk", "batch_active"),
        ("batchtopk", "alive"),
        ("matryoshka_aux", "batch_active"),
    ],
)
def test_unit_norm_and_weight_penalty_act_as_in_the_dense_step(
    kind: str, mask: str, sparse_step: str, activations: torch.Tensor
) -> None:
    architecture, own = KINDS[kind]
    penalty = sr.WeightPenalty(coefficient=0.5, mask=mask)  # type: ignore[arg-type]
    saes = [
        make_sae(
            architecture,
            sparse_step=choice,
            decoder_constraint="unit_norm",
            regularizers=[penalty],
            **own,
        )
        for choice in ("never", sparse_step)
    ]
    trainers = [
        make_trainer(sae, batches(activations, 32), batch_size=32, steps=50, lr=3e-4)
        for sae in saes
    ]
    dense, sparse = (run_steps(trainer, 50) for trainer in trainers)
    assert [sae.took_sparse_step for sae in saes] == [False, True]
    for ours, theirs in zip(sparse, dense, strict=True):
        assert_same_outputs(ours, theirs, 1e-5)
    assert all(output.losses["weight_penalty"] > 0 for output in dense)
    assert any(output.losses[AUX] > 0 for output in dense)
    assert_same_weights(saes[1], saes[0], 1e-4)
    assert (saes[1].W_dec.norm(dim=-1) - 1).abs().max() < 1e-6


@pytest.mark.parametrize("sparse_step", SPARSE_STEPS)
@pytest.mark.parametrize("kind", KINDS)
def test_resumed_training_equals_uninterrupted(
    kind: str, sparse_step: str, tmp_path: Path, activations: torch.Tensor
) -> None:
    fields: dict[str, Any] = {**KINDS[kind][1], "sparse_step": sparse_step}
    fields["regularizers"] = [sr.WeightPenalty(coefficient=0.1)]
    whole = make_trainer(make_sae(KINDS[kind][0], **fields), batches(activations))
    run_steps(whole, 8)
    whole.save_checkpoint("eight", base_path=tmp_path)
    at_eight = whole.sae.W_enc.detach().clone()

    cfg = json.loads((tmp_path / "eight" / "cfg.json").read_text())
    torch.manual_seed(1234)
    resumed = make_trainer(TrainingSAE.from_dict(cfg), batches(activations, start=8))
    resumed.load_trainer_state(tmp_path / "eight")
    resumed.sae.load_weights_from_checkpoint(tmp_path / "eight")
    assert torch.equal(resumed.sae.W_enc, at_eight)
    for trainer in (whole, resumed):
        outputs = run_steps(trainer, 6)
        assert trainer.sae.took_sparse_step
        assert any(output.losses[AUX] > 0 for output in outputs)
    assert resumed.sae.step_index == 14
    assert not torch.equal(resumed.sae.W_enc, at_eight)
    assert_same_state(resumed.sae, whole.sae)
    assert_same_optimizer(resumed.optimizer, whole.optimizer)
    assert torch.equal(resumed.act_freq_scores, whole.act_freq_scores)


@pytest.mark.parametrize("sparse_step", SPARSE_STEPS)
@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_gives_the_same_weights(
    kind: str, sparse_step: str, activations: torch.Tensor
) -> None:
    saes = [pair(kind, sparse_step=sparse_step)[1] for _ in range(2)]
    for sae in saes:
        run_steps(make_trainer(sae, batches(activations)), 15)
    assert_same_state(*saes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalize_activations", ["none", "expected_average_only_in"])
def test_saved_sae_is_saelens_own(
    kind: str,
    normalize_activations: str,
    tmp_path: Path,
    activations: torch.Tensor,
) -> None:
    saes = pair(kind, normalize_activations=normalize_activations)
    for sae, name in zip(saes, ("stock", "ours"), strict=True):
        make_trainer(sae, batches(activations), steps=12, lr=3e-4).fit()
        sae.save_inference_model(tmp_path / name)
    assert saes[1].took_sparse_step
    stock, ours = (SAE.load_from_disk(tmp_path / name) for name in ("stock", "ours"))
    assert type(ours) is type(stock)
    x = activations[-BATCH:]
    with torch.no_grad():
        acts = ours.encode(x)
        assert relative(acts, stock.encode(x)) < 1e-4
        assert relative(ours(x), stock(x)) < 1e-4
    assert (acts > 0).any()
    cfg = json.loads((tmp_path / "ours" / "cfg.json").read_text())
    assert "sparse_step" not in cfg
    assert "sparse_step" not in ours.cfg.to_dict()
    details = cfg["metadata"]["training_architecture_details"]
    assert details["sparse_step"] == "always"


@pytest.mark.parametrize("choice", ["auto", "always", "never"])
def test_choice_survives_the_configuration_file(choice: str) -> None:
    for architecture in TOPK_ARCHITECTURES:
        cfg = make_cfg(architecture, sparse_step=choice)
        values = json.loads(json.dumps(cfg.to_dict()))
        assert values["sparse_step"] == choice
        assert TrainingSAEConfig.from_dict(values).sparse_step == choice  # type: ignore[attr-defined]
        assert "sparse_step" not in cfg.get_inference_sae_cfg_dict()


def test_the_default_choice_is_auto() -> None:
    for architecture in TOPK_ARCHITECTURES:
        (field,) = (
            field
            for field in dataclasses.fields(make_cfg(architecture))
            if field.name == "sparse_step"
        )
        assert field.default == "auto"


@pytest.mark.parametrize("architecture", TOPK_ARCHITECTURES)
def test_never_is_saelens_own_bit_for_bit(
    architecture: str, activations: torch.Tensor
) -> None:
    stock = make_stock_sae(architecture)
    ours = make_sae(architecture, sparse_step="never")
    trainers = [make_trainer(sae, batches(activations)) for sae in (stock, ours)]
    for trainer in trainers:
        outputs = run_steps(trainer, 10)
        assert outputs[-1].losses[AUX] > 0
    assert not ours.took_sparse_step
    assert_same_state(ours, stock)
    assert_same_optimizer(trainers[1].optimizer, trainers[0].optimizer)


@pytest.mark.parametrize("architecture", TOPK_ARCHITECTURES)
def test_adam_is_fused_after_a_sparse_step_only(
    architecture: str, activations: torch.Tensor
) -> None:
    for choice in ("never", "always"):
        sae = make_sae(architecture, sparse_step=choice)
        trainer = make_trainer(sae, batches(activations))
        run_steps(trainer, 1)
        (group,) = trainer.optimizer.param_groups
        assert bool(group["fused"]) == (choice == "always")


def took(sae: Any, x: torch.Tensor) -> bool:
    """Whether a step on ``x`` is sparse, with what that says about its output."""
    output = forward(sae, x)
    assert output.loss.isfinite()
    assert isinstance(output, SparseStepOutput) == sae.took_sparse_step
    assert output.feature_acts.is_sparse == sae.took_sparse_step
    assert (output.hidden_pre.shape[0] == 0) == sae.took_sparse_step
    return sae.took_sparse_step


@pytest.mark.parametrize("architecture", TOPK_ARCHITECTURES)
def test_auto_takes_it_for_wide_dictionaries(
    architecture: str, activations: torch.Tensor
) -> None:
    x = activations[:16]
    least = D_SAE // 16
    assert took(auto_sae(architecture, k=least), x)
    assert not took(auto_sae(architecture, k=least + 1), x)
    assert took(make_sae(architecture, k=least + 1, sparse_step="always"), x)
    with torch.autocast("cpu", torch.bfloat16):
        assert not took(auto_sae(architecture, k=least), x)
        assert took(auto_sae(architecture, k=D_SAE // 40), x)
        assert not took(auto_sae(architecture, k=D_SAE // 40 + 1), x)


@pytest.mark.parametrize("name", HOOKS)
@pytest.mark.parametrize("direction", ["fwd", "bwd"])
def test_a_hook_gets_the_dense_step(
    name: str, direction: Any, activations: torch.Tensor
) -> None:
    x = activations[:8].clone().requires_grad_()
    sae = auto_sae("batchtopk", k=4)
    forced = make_sae("batchtopk", k=4, sparse_step="always")
    assert took(sae, x)
    seen: list[str] = []

    def note(_: Any, hook: Any) -> None:
        seen.append(hook.name)

    for each in (sae, forced):
        each.hook_dict[name].add_hook(note, dir=direction)
    assert not took(sae, x)
    forward(sae, x).loss.backward()
    assert set(seen) == {name}
    with pytest.raises(
        sr.InputError, match=f"cannot be followed: the hook point {name}"
    ):
        forward(forced, x)
    for each in (sae, forced):
        each.reset_hooks()
        assert took(each, x)


def test_a_permanent_hook_gets_the_dense_step(activations: torch.Tensor) -> None:
    sae = auto_sae(k=4)
    sae.hook_sae_acts_post.add_perma_hook(lambda _, hook: hook.name and None)
    assert not took(sae, activations[:8])


def test_a_hook_of_plain_pytorch_gets_the_dense_step(activations: torch.Tensor) -> None:
    sae = auto_sae(k=4)
    seen: list[torch.Size] = []

    def note(*call: Any) -> None:
        seen.append(call[-1].shape)

    sae.hook_sae_acts_pre.register_forward_hook(note)
    assert not took(sae, activations[:8])
    assert seen == [torch.Size([8, D_SAE])]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (
            {"normalize_activations": "layer_norm"},
            "normalize_activations='layer_norm' acts inside the step",
        ),
        (
            {"normalize_activations": "constant_norm_rescale"},
            "normalize_activations='constant_norm_rescale' acts inside the step",
        ),
        (
            {"regularizers": [NoisyFiring(coefficient=0.1, label="noisy")]},
            "the regulariser noisy needs the pre-activations of all latents",
        ),
        (
            {
                "regularizers": [
                    sr.WeightPenalty(coefficient=0.1),
                    NoisyFiring(coefficient=0.1, label="noisy"),
                ]
            },
            "the regulariser noisy needs",
        ),
    ],
)
@pytest.mark.parametrize("architecture", TOPK_ARCHITECTURES)
def test_fields_that_need_the_dense_step(
    architecture: str,
    fields: dict[str, Any],
    reason: str,
    activations: torch.Tensor,
) -> None:
    # SAELens' own Matryoshka step fails where activations are normalised inside it
    if "regularizers" in fields or architecture != "matryoshka_batchtopk":
        assert not took(auto_sae(architecture, k=4, **fields), activations[:8])
    with pytest.raises(
        sr.InputError, match=f"sparse_step='always' cannot be followed: {reason}"
    ):
        make_cfg(architecture, k=4, sparse_step="always", **fields)


@pytest.mark.parametrize("architecture", TOPK_ARCHITECTURES)
def test_weights_of_low_precision_need_the_dense_step(
    architecture: str, activations: torch.Tensor
) -> None:
    x = activations[:8].bfloat16()
    assert not took(auto_sae(architecture, k=4, dtype="bfloat16"), x)
    forced = make_sae(architecture, k=4, dtype="bfloat16", sparse_step="always")
    with pytest.raises(
        sr.InputError,
        match="needs float32 or float64 weights, these are torch.bfloat16",
    ):
        forward(forced, x)


@pytest.mark.parametrize("architecture", TOPK_ARCHITECTURES)
def test_screening_needs_float32(architecture: str, activations: torch.Tensor) -> None:
    with pytest.raises(sr.InputError, match="'screened' cannot be followed.*float64"):
        make_cfg(architecture, sparse_step="screened", dtype="float64")
    with pytest.raises(
        sr.InputError, match="'screened' cannot be followed.*layer_norm"
    ):
        make_cfg(
            architecture, sparse_step="screened", normalize_activations="layer_norm"
        )
    # under autocast it ranks by autocast's product, as without screening
    screened, plain = (
        make_sae(architecture, k=4, sparse_step=step) for step in ("screened", "always")
    )
    with torch.autocast("cpu", torch.bfloat16):
        outputs = [forward(sae, activations[:32]) for sae in (screened, plain)]
    assert torch.equal(outputs[0].sae_out, outputs[1].sae_out)


@pytest.mark.parametrize("architecture", TOPK_ARCHITECTURES)
def test_auto_screens_wide_dictionaries_where_bfloat16_is_fast(
    architecture: str, activations: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screening, "_LEAST_ROWS", 32)
    fields: dict[str, Any] = {"k": 8, "d_sae": 8192}
    if architecture == "matryoshka_batchtopk":
        fields["matryoshka_widths"] = [1024, 8192]
    x = activations[:32]

    def values(step: str) -> torch.Tensor:
        return forward(make_sae(architecture, sparse_step=step, **fields), x).sae_out

    fast = fast_dtype("cpu") == "bfloat16"
    auto, screened, plain = (values(step) for step in ("auto", "screened", "always"))
    assert relative(screened, plain) < 1e-5
    # rounding tells which was taken
    assert not torch.equal(screened, plain)
    assert torch.equal(auto, screened if fast else plain)
    monkeypatch.setattr(screening, "_LEAST_ROWS", 33)
    assert torch.equal(values("auto"), plain)


def test_a_regulariser_of_weights_only_leaves_it_sparse(
    activations: torch.Tensor,
) -> None:
    sae = auto_sae(k=4, regularizers=[sr.WeightPenalty(coefficient=0.1)])
    assert took(sae, activations[:8])


@pytest.mark.parametrize("architecture", TOPK_ARCHITECTURES)
def test_misspelt_choice_is_refused(architecture: str) -> None:
    with pytest.raises(sr.InputError, match="sparse_step is 'sometimes'"):
        make_cfg(architecture, sparse_step="sometimes")


def kept_bytes(sae: Any, x: torch.Tensor, dead: torch.Tensor | None) -> int:
    """What a forward pass keeps for the backward pass, parameters left out."""
    # storages are counted whole, also that of a view
    x = x.clone()
    own = {each.untyped_storage().data_ptr() for each in sae.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = forward(sae, x, dead)
    # the output keeps every storage alive, so that no address is counted for another
    assert output.loss.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("architecture", TOPK_ARCHITECTURES)
def test_nothing_of_the_size_batch_times_latents_is_kept(
    architecture: str, activations: torch.Tensor
) -> None:
    batch, d_sae = 512, 16_384
    fields: dict[str, Any] = {"d_sae": d_sae, "k": 16}
    if architecture == "matryoshka_batchtopk":
        fields["matryoshka_widths"] = [1024, 4096, d_sae]
    sae = make_sae(architecture, sparse_step="always", **fields)
    full = batch * d_sae * 4
    dead = torch.arange(d_sae) % 32 == 0
    for mask in (None, dead):
        assert 0 < kept_bytes(sae, activations[:batch], mask) < full / 4
    assert sae.took_sparse_step
    sae.cfg.sparse_step = "never"
    assert kept_bytes(sae, activations[:batch], None) > full
