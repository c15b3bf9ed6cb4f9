"""Training steps in which only selected latents get gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from sae_lens import BatchTopKTrainingSAE
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput
from typing_extensions import override

from saereg_plugin.architectures.config import TopKFieldsMixin
from saereg_plugin.errors import InputError
from saereg_plugin.kernels.aux_loss import AuxKLoss, DeadLatents
from saereg_plugin.kernels.encode import (
    ActiveLatents,
    NestedDecode,
    SelectedPreActivations,
    WiderSelection,
)
from saereg_plugin.kernels.inference import is_in_use
from saereg_plugin.kernels.screening import (
    can_screen,
    screen_batch_top_k,
    screen_top_k,
    screening_wins,
)
from saereg_plugin.kernels.selected import Selected
from saereg_plugin.kernels.top_k import PreActivations, select_batch_top_k, select_top_k
from saereg_plugin.mechanics.auxk import (
    ScaledAuxKMixin,
    ScaledMatryoshkaAuxKMixin,
    auxk_scale,
    rectifies,
)

_REPLACED = (
    "encode_with_hidden_pre",
    "decode",
    "calculate_aux_loss",
    "get_activation_fn",
)
"""Methods of SAELens that a sparse step replaces."""


@dataclass
class SparseStepOutput(TrainStepOutput):
    """
    Output of a sparse step.

    ``feature_acts`` is a sparse [batch, d_sae] matrix without gradients and
    ``hidden_pre`` has no rows: the pre-activations are not kept.
    """

    active: ActiveLatents | None = None
    wider: WiderSelection | None = None


class SparseStepMixin(ScaledAuxKMixin):
    """
    Put before SAELens' TopK, BatchTopK or Matryoshka training class to make its step sparse.

    The result is SAELens' up to rounding (top-k of the same pre-activations, the same
    losses and gradients), in time and memory of ``batch * k`` but for the encoder's
    product, which is made in blocks and not kept.
    """

    cfg: Any

    took_sparse_step: bool = False
    """Whether the last training step was sparse; passes under ``torch.no_grad`` are none."""

    @property
    def current_k(self) -> float:
        """The k of this pass; ``cfg.k`` unless a mechanic anneals it."""
        return cast(Any, self.activation_fn).k

    @property
    def selected_k(self) -> float:
        """How many latents this pass selects in a row: more than k if a regulariser asks."""
        multiple = max(
            (each.selection_multiple for each in self.cfg.regularizers), default=1
        )
        return min(multiple * self.current_k, self.cfg.d_sae)

    @override
    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        sparse = self._takes_sparse_step(step_input.sae_in)
        if torch.is_grad_enabled():
            self.took_sparse_step = sparse
        if not sparse:
            return super().training_forward_pass(step_input)
        return self._sparse_pass(step_input)

    def _takes_sparse_step(self, sae_in: torch.Tensor) -> bool:
        cfg: TopKFieldsMixin = self.cfg
        if cfg.sparse_step == "never":
            return False
        obstacle = self._obstacle(sae_in)
        if obstacle is None:
            autocast = torch.is_autocast_enabled(self.W_enc.device.type)
            return cfg.sparse_step != "auto" or cfg.sparse_step_wins(
                self.selected_k, autocast=autocast
            )
        if cfg.sparse_step != "auto":
            raise InputError(
                f"sparse_step={cfg.sparse_step!r} cannot be followed: {obstacle}. Use "
                "sparse_step='auto'."
            )
        return False

    def _obstacle(self, sae_in: torch.Tensor) -> str | None:
        """Return the reason why this SAE's step must be dense, or None."""
        if sae_in.ndim != 2:
            return f"it takes activations [batch, d_in], these have {sae_in.ndim} dimensions"
        for name in _REPLACED:
            if not getattr(type(self), name).__module__.startswith("sae_lens."):
                return f"{type(self).__name__} overrides {name}, which it does not call"
        if self.W_enc.dtype not in (torch.float32, torch.float64):
            return f"it needs float32 or float64 weights, these are {self.W_enc.dtype}"
        if self.W_enc.device.type not in ("cpu", "cuda"):
            return f"it runs on cpu and cuda, these weights are on {self.W_enc.device}"
        for name, hook in self.hook_dict.items():
            if is_in_use(hook):
                return f"the hook point {name} is in use and sees dense activations"
        return self.cfg.sparse_step_obstacle()

    # custom autograd functions over index tensors: nothing for the compiler to gain
    @torch.compiler.disable()
    def _sparse_pass(self, step_input: TrainStepInput) -> SparseStepOutput:
        device = self.W_enc.device.type
        dtype = (
            torch.get_autocast_dtype(device)
            if torch.is_autocast_enabled(device)
            else self.W_enc.dtype
        )
        with torch.autocast(device, enabled=False):
            return self._float_pass(step_input, dtype)

    def _float_pass(
        self, step_input: TrainStepInput, dtype: torch.dtype
    ) -> SparseStepOutput:
        x = step_input.sae_in.to(self.W_enc.dtype)
        center = self.b_dec if self.cfg.apply_b_dec_to_input else None
        norms = self._decoder_norms()
        selected, ranking, values = self._select(x, center, norms, dtype)
        hidden = SelectedPreActivations.apply(
            x, self.W_enc, self.b_enc, center, selected, values
        )
        assert isinstance(hidden, torch.Tensor)
        # The decoder's norms cancel: decode() divides by what encode() multiplied with.
        acts = hidden.relu()
        wider = None
        if self.selected_k > self.current_k:
            rescaled = self.W_dec if self.cfg.rescale_acts_by_decoder_norm else None
            active = ActiveLatents(selected, acts, rescaled)
            wider = WiderSelection(active, ranking.view(len(x), -1))
            narrow = wider.of_k(int(self.current_k))
            selected, acts = narrow.selected, narrow.acts
        levels = NestedDecode.apply(
            acts, self.W_dec, self.b_dec, selected, self._widths()
        )
        assert isinstance(levels, torch.Tensor)
        losses = self._reconstruction_losses(levels, x)
        losses["auxiliary_reconstruction_loss"] = self._dead_loss(
            x, center, levels, norms, dtype, step_input.dead_neuron_mask
        )
        output = self._output(step_input, levels, losses, selected, acts)
        output.wider = wider
        self._after(output)
        return output

    def _decoder_norms(self) -> torch.Tensor | None:
        if not self.cfg.rescale_acts_by_decoder_norm:
            return None
        return self.W_dec.detach().norm(dim=-1)

    def _select(
        self,
        x: torch.Tensor,
        center: torch.Tensor | None,
        norms: torch.Tensor | None,
        dtype: torch.dtype,
    ) -> tuple[Selected, torch.Tensor, torch.Tensor | None]:
        """Return the selection, what ranked it, and its values if they are precise enough."""
        with torch.no_grad():
            sae_in = x if center is None else x - center
            pre = PreActivations(sae_in, self.W_enc, self.b_enc, norms, dtype)
            selected, ranking = self._select_from(pre)
            if not pre.exact:
                return selected, ranking, None
            values = ranking if norms is None else ranking / norms[selected.latents]
            return selected, ranking, values

    def _select_from(self, pre: PreActivations) -> tuple[Selected, torch.Tensor]:
        select = screen_top_k if self._screens(pre) else select_top_k
        return select(pre, int(self.selected_k))

    def _screens(self, pre: PreActivations) -> bool:
        """Return whether latents are ruled out by a product in bfloat16."""
        k, choice = self.selected_k, self.cfg.sparse_step
        if choice == "always" or not can_screen(pre, k):
            return False
        return choice == "screened" or screening_wins(pre, k)

    def _widths(self) -> tuple[int, ...]:
        return (self.cfg.d_sae,)

    def _reconstruction_losses(
        self, levels: torch.Tensor, x: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Return the losses of all levels; the last is the whole SAE's."""
        errors = [self.mse_loss_fn(level, x).sum(dim=-1).mean() for level in levels]
        inner = zip(self._widths()[:-1], errors[:-1], strict=True)
        return {
            "mse_loss": errors[-1],
            **{f"inner_mse_loss_{width}": error for width, error in inner},
        }

    def _dead_loss(
        self,
        x: torch.Tensor,
        center: torch.Tensor | None,
        levels: torch.Tensor,
        norms: torch.Tensor | None,
        dtype: torch.dtype,
        dead_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return the auxiliary loss of the dead latents, scaled as configured."""
        total = levels.new_zeros(())
        if dead_mask is None:
            return total
        dead = dead_mask.nonzero().squeeze(1)
        for residual, part in self._dead_by_level(x, levels, dead):
            if part.numel() == 0:
                continue
            k_aux = x.shape[-1] // 2
            scaling = self.cfg.auxk_scaling
            loss = AuxKLoss.apply(
                x,
                self.W_enc,
                self.b_enc,
                self.W_dec,
                center,
                residual,
                DeadLatents(
                    part, min(k_aux, part.numel()), norms, dtype, rectifies(scaling)
                ),
            )
            assert isinstance(loss, torch.Tensor)
            n_dead = part.numel()
            total = total + loss * auxk_scale(
                scaling, n_dead=n_dead, k_aux=k_aux, x=x, residual=residual
            )
        return self.cfg.aux_loss_coefficient * total

    def _dead_by_level(
        self, x: torch.Tensor, levels: torch.Tensor, dead: torch.Tensor
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return residuals, each with the dead latents that reconstruct it."""
        return [((x - levels[-1]).detach(), dead)]

    def _output(
        self,
        step_input: TrainStepInput,
        levels: torch.Tensor,
        losses: dict[str, torch.Tensor],
        selected: Selected,
        acts: torch.Tensor,
    ) -> SparseStepOutput:
        rescaled = self.W_dec if self.cfg.rescale_acts_by_decoder_norm else None
        active = ActiveLatents(selected, acts, rescaled)
        with torch.no_grad():
            values = ActiveLatents(selected, acts.detach(), rescaled).values.detach()
        return SparseStepOutput(
            sae_in=step_input.sae_in,
            sae_out=levels[-1],
            feature_acts=selected.to_coo(values),
            hidden_pre=levels.new_empty(0, self.cfg.d_sae),
            loss=torch.stack(list(losses.values())).sum(),
            losses=losses,
            active=active,
        )

    def _after(self, output: SparseStepOutput) -> None:
        """Act on the step's output; nothing for TopK."""


class SparseBatchTopKMixin(SparseStepMixin):
    """The sparse step of BatchTopK: the ``k * batch`` largest of the whole batch."""

    @override
    def _select_from(self, pre: PreActivations) -> tuple[Selected, torch.Tensor]:
        select = screen_batch_top_k if self._screens(pre) else select_batch_top_k
        return select(pre, int(self.current_k * pre.sae_in.shape[0]))

    @override
    def _after(self, output: SparseStepOutput) -> None:
        assert isinstance(self, BatchTopKTrainingSAE)
        assert output.active is not None
        # the values alone: a sparse tensor has no boolean indexing
        self.update_topk_threshold(output.active.values.detach())
        output.metrics["topk_threshold"] = self.topk_threshold


class SparseMatryoshkaMixin(SparseBatchTopKMixin, ScaledMatryoshkaAuxKMixin):
    """The sparse step of Matryoshka BatchTopK: one reconstruction for each width."""

    @override
    def _widths(self) -> tuple[int, ...]:
        return tuple(self.cfg.matryoshka_widths)

    @override
    def _dead_by_level(
        self, x: torch.Tensor, levels: torch.Tensor, dead: torch.Tensor
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        if not self.cfg.use_matryoshka_aux_loss:
            return super()._dead_by_level(x, levels, dead)
        bounds = torch.tensor(self._widths(), device=dead.device)
        level_of = torch.bucketize(dead, bounds, right=True)
        return [
            ((x - level).detach(), dead[level_of == number])
            for number, level in enumerate(levels)
        ]
