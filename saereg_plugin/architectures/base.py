"""Mixin that adds regularisers and mechanics to SAELens' training SAEs."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from sae_lens import TrainingSAE
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput
from sae_lens.util import temporary_seed
from torch import nn
from typing_extensions import override

from saereg_plugin.architectures.components import (
    build_components,
    call,
    loss_of,
    rows_of,
)
from saereg_plugin.architectures.config import (
    RegularizedConfigMixin,
    TopKFieldsMixin,
)
from saereg_plugin.architectures.parameters import Parameter, own_tensors, parameter_of
from saereg_plugin.architectures.saving import (
    require_finite_output,
    restore_vanished_rows_,
)
from saereg_plugin.architectures.sparse_step import SparseStepMixin
from saereg_plugin.component import Component, Step, decode_count, encode_count
from saereg_plugin.errors import InputError
from saereg_plugin.mechanics.initialization import initialize_untied_, scale_encoder_
from saereg_plugin.mechanics.optimizer_steps import claim, use_fused_adam

_Base = TrainingSAE[Any] if TYPE_CHECKING else object

_STEPS = "completed_steps"
"""Key of the step count in state dicts."""


class RegularizedMixin(_Base):
    """
    Put before a SAELens training class to give it regularisers and mechanics.

    Without any of them it trains bit for bit like that class, or up to rounding where
    it takes a sparse step (``SparseStepMixin``). It holds its
    components, calls them around each step (see ``saereg_plugin.component``), and
    keeps everything they add out of the saved inference SAE.
    """

    cfg: RegularizedConfigMixin
    further_parameters: ClassVar[Mapping[str, Parameter]] = {}
    """Parameters and buffers that SAELens' architectures do not have, by name."""
    step_index: int
    """Completed optimiser steps, over all resumptions; in state dicts, but no buffer."""

    def __init__(self, cfg: Any, use_error_term: bool = False):
        super().__init__(cfg, use_error_term)
        if isinstance(cfg, TopKFieldsMixin) and not isinstance(self, SparseStepMixin):
            raise InputError(
                f"{type(cfg).__name__} has TopKFieldsMixin's fields sparse_step and auxk_scaling, but "
                f"{type(self).__name__} has no SparseStepMixin to follow them. Add that mixin to the "
                "class, or give the configuration RescaledConfigMixin or RegularizedConfigMixin instead."
            )
        for name, _ in own_tensors(self):
            parameter_of(self, name)
        if cfg.encoder_scale == "unit_reconstructions":
            scale_encoder_(self)
        self.components = nn.ModuleDict(
            {component.label: component for component in build_components(cfg)}
        )
        for component in self._each():
            call(component, component.allocate, self)
        self.step_index = 0
        self._is_set_up = False
        self._passes = PassOrder()

    @override
    def initialize_weights(self) -> None:
        with temporary_seed(self.cfg.init_seed):
            super().initialize_weights()
        if self.cfg.initialization == "untied":
            with temporary_seed(self.cfg.init_seed):
                initialize_untied_(self)

    @override
    # the inner pass may be compiled (compile_sae=True); hooks and counters are Python
    @torch.compiler.disable(recursive=False)
    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        if not torch.is_grad_enabled():
            # nothing can be trained on it: components keep what they know of the pass that is
            return super().training_forward_pass(step_input)
        self.bind()
        if not self.components:
            return super().training_forward_pass(step_input)
        self._passes.begin(self.parameters())
        sae_in = step_input.sae_in
        try:
            for component in self._each():
                sae_in = rows_of(component, sae_in)
            if sae_in is not step_input.sae_in:
                step_input = replace(step_input, sae_in=sae_in)
            output = super().training_forward_pass(step_input)
            self._add_losses(output, step_input)
        finally:
            for component in self._each():
                component.end_pass()
        self._passes.watch(output.loss)
        return output

    def bind(self) -> None:
        """
        Make this SAE the owner of its parameters and components.

        Called in every forward pass: loading and copying replace parameters.
        """
        for name, parameter in self.named_parameters(recurse=False):
            if claim(parameter, self):
                parameter.register_post_accumulate_grad_hook(
                    partial(_on_gradient, weakref.ref(self), name)
                )
        for component in self._each():
            component.attach(self)
        if not self._is_set_up:
            self._is_set_up = True
            for component in self._each():
                call(component, component.setup, self)

    @torch.no_grad()
    def on_gradient(self, name: str, parameter: nn.Parameter) -> None:
        """
        Called when autograd has written a parameter's gradient, before clipping.

        Raises:
            InputError: if it adds to gradients of another backward pass: see ``PassOrder``.
        """
        if not self.components:
            return
        self._passes.gradient(name)
        for component in self._each():
            call(component, component.gradient, name, parameter)

    def before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """
        Called by the optimiser hooks, without gradient tracking.

        Raises:
            InputError: if the gradients are not those of the last forward pass.
        """
        self._passes.before_step()
        if isinstance(self, SparseStepMixin) and self.took_sparse_step:
            use_fused_adam(optimizer)
        lr = float(optimizer.param_groups[0]["lr"])
        for component in self._each():
            call(component, component.before_step, lr)

    def after_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Called by the optimiser hooks, without gradient tracking."""
        self._passes.after_step()
        for component in self._each():
            call(component, component.after_step, optimizer)
        self.step_index += 1

    @override
    @torch.no_grad()
    def fold_activation_norm_scaling_factor(self, scaling_factor: float) -> None:
        """
        Fold the scale of activations into the weights.

        With unit norm, SAELens' fold would divide the decoder's rows. Dividing every
        bias and threshold by the factor instead gives the same reconstruction: with
        s the factor, ``(s x - b_dec) W + b = s ((x - b_dec / s) W + b / s)``, so
        activations come out divided by s and need no change of the decoder.

        Training is over then: the weights become those to save (``Component.saved_weights``).
        """
        self._adopt_saved_weights()
        if not self.cfg.unit_norm:
            super().fold_activation_norm_scaling_factor(scaling_factor)
            return
        for name, tensor in own_tensors(self):
            if parameter_of(self, name).in_activation_units:
                tensor.data /= scaling_factor
        self.cfg.normalize_activations = "none"

    @override
    @torch.no_grad()
    def fold_activation_whitening(
        self,
        mean: torch.Tensor,
        whitening_matrix: torch.Tensor,
        unwhitening_matrix: torch.Tensor,
    ) -> None:
        """Fold the whitening into the weights to save; training is over then."""
        self._adopt_saved_weights()
        super().fold_activation_whitening(mean, whitening_matrix, unwhitening_matrix)

    @override
    def process_state_dict_for_saving_inference(
        self, state_dict: dict[str, Any]
    ) -> None:
        weights = self._saved_weights()
        state_dict.update(weights)
        # SAELens folds the norms of the SAE's own decoder into the saved tensors
        with _in_place_of(self, weights):
            super().process_state_dict_for_saving_inference(state_dict)
        for key in self._own_keys():
            state_dict.pop(key, None)
        if getattr(self.cfg, "rescale_acts_by_decoder_norm", False):
            # SAELens has folded the norms, so these tensors are no longer the parameters
            restore_vanished_rows_(
                state_dict["W_dec"], state_dict["W_enc"], state_dict["b_enc"]
            )

    @override
    def save_inference_model(self, path: str | Path) -> tuple[Path, Path]:
        """
        Save as SAELens does, if the saved SAE computes finite numbers.

        Raises:
            InputError: before anything is written.
        """
        state = self.state_dict()
        self.process_state_dict_for_saving_inference(state)
        require_finite_output(self.cfg.get_inference_sae_cfg_dict(), state)
        return super().save_inference_model(path)

    @override
    def process_state_dict_for_loading(self, state_dict: dict[str, Any]) -> None:
        """Fill in what a stock SAELens checkpoint lacks; undo SAELens' cast of our buffers."""
        super().process_state_dict_for_loading(state_dict)
        own = self.state_dict()
        from_stock = _STEPS not in state_dict
        for key in self._own_keys():
            if key not in state_dict:
                state_dict[key] = own[key]
                if from_stock and key.endswith(".initialized"):
                    state_dict[key] = torch.ones_like(own[key])
            state_dict[key] = state_dict[key].to(own[key].dtype)
        self._is_set_up = False

    # no buffer: SAELens takes all buffers for its own; its tests fill them with random numbers
    @override
    def _save_to_state_dict(
        self, destination: Any, prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + _STEPS] = encode_count(self.step_index)

    @override
    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        count = state_dict.pop(prefix + _STEPS, None)
        if count is not None:
            self.step_index = decode_count(count)
        elif strict:
            missing_keys.append(prefix + _STEPS)
        super()._load_from_state_dict(
            state_dict,
            prefix,
            local_metadata,
            strict,
            missing_keys,
            unexpected_keys,
            error_msgs,
        )

    def _saved_weights(self) -> dict[str, torch.Tensor]:
        weights: dict[str, torch.Tensor] = {}
        for component in self._each():
            weights |= call(component, component.saved_weights, self)
        return weights

    def _adopt_saved_weights(self) -> None:
        for name, value in self._saved_weights().items():
            self.get_parameter(name).data.copy_(value)
        for component in self._each():
            call(component, component.finish, self)

    def _own_keys(self) -> list[str]:
        return [_STEPS, *(f"components.{key}" for key in self.components.state_dict())]

    def _each(self) -> list[Component]:
        return [
            part for part in self.components.values() if isinstance(part, Component)
        ]

    def _add_losses(self, output: TrainStepOutput, step_input: TrainStepInput) -> None:
        step = Step(
            sae=self,
            index=self.step_index,
            sae_in=output.sae_in,
            hidden_pre=output.hidden_pre,
            feature_acts=output.feature_acts,
            sae_out=output.sae_out,
            dead_mask=step_input.dead_neuron_mask,
            active=getattr(output, "active", None),
            wider=getattr(output, "wider", None),
        )
        with torch.autocast(output.loss.device.type, enabled=False):
            for component in self._each():
                value = loss_of(component, step, self.cfg)
                if value is not None:
                    output.losses[component.label] = value
                    if component.in_loss:
                        output.loss = output.loss + value
                for name, metric in call(component, component.metrics).items():
                    output.metrics[f"{component.label}_{name}"] = metric


@contextmanager
def _in_place_of(
    sae: RegularizedMixin, weights: Mapping[str, torch.Tensor]
) -> Iterator[None]:
    """Give parameters other values for a while."""
    parameters = {name: sae.get_parameter(name) for name in weights}
    kept = {name: parameter.data for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        parameter.data = weights[name]
    try:
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.data = kept[name]


def _on_gradient(
    owner: weakref.ref[RegularizedMixin], name: str, parameter: torch.Tensor
) -> None:
    sae = owner()
    # the parameter may have been replaced since
    if sae is not None and getattr(sae, name, None) is parameter:
        assert isinstance(parameter, nn.Parameter)
        sae.on_gradient(name, parameter)


class PassOrder:
    """
    Refuses passes of one SAE that its components cannot serve.

    Components know the last forward pass only, and change the sum of gradients.
    """

    def __init__(self):
        self._last = 0
        # number of the pass that gave the parameters' gradients; None after a step
        self._trained: int | None = None
        self._accumulates = False
        self._written: set[str] = set()

    def begin(self, parameters: Iterable[torch.Tensor]) -> None:
        """Count a forward pass, which begins now."""
        self._last += 1
        self._accumulates = self._trained is not None and any(
            parameter.grad is not None and bool(parameter.grad.any())
            for parameter in parameters
        )
        self._written.clear()

    def watch(self, loss: torch.Tensor) -> None:
        """Refuse a backward pass of ``loss``, the last pass's, once another pass began."""
        if loss.requires_grad:
            loss.register_hook(partial(self._require_last, self._last))

    def gradient(self, name: str) -> None:
        """
        Note that autograd has written the gradient of the parameter ``name``.

        Raises:
            InputError: if it adds to gradients of another backward pass since the last
                optimiser step. Gradients left from an earlier step are not noticed.
        """
        if self._accumulates or name in self._written:
            raise InputError(
                "A second backward pass before the optimiser's step: regularisers and mechanics act on "
                "the sum of gradients, so the first pass's part would be changed twice. Take one "
                "backward pass a step (a larger batch instead of accumulated gradients)."
            )
        self._trained = self._last
        self._written.add(name)

    def before_step(self) -> None:
        """
        Check the gradients that an optimiser is about to use.

        Raises:
            InputError: if a forward pass came after the one they are of.
        """
        if self._trained is not None:
            self._require_last(self._trained)

    def after_step(self) -> None:
        """Note that the gradients were used."""
        self._trained = None
        self._written.clear()

    def _require_last(self, number: int, _: torch.Tensor | None = None) -> None:
        if number != self._last:
            raise InputError(
                "Another forward pass came between a forward pass and its optimiser step: regularisers "
                "and mechanics know the last pass only, and would act on one with the state of the "
                "other. Take one forward pass, one backward pass and one step in turn (a larger batch "
                "instead of a sum of losses), and passes for figures under torch.no_grad()."
            )
