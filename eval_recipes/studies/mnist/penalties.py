"""The paper's weight penalties on encoder and decoder, with their gradients in closed form."""

from __future__ import annotations

from torch import Tensor
from torch.linalg import vector_norm
from typing_extensions import assert_never

from eval_recipes.studies.mnist.settings import Setting
from eval_recipes.studies.mnist.weights import Weights


def add_penalty_(setting: Setting, weights: Weights, grads: Weights) -> None:
    """
    Add the gradient of the setting's penalty to ``grads``, in place; biases are free.

    ``l1``: strength * (mean|dec| + mean|enc|). ``l2``: strength * (sum dec^2 + sum enc^2).
    ``frobenius``: strength * (||dec||_F + ||enc||_F), which is what the public notebook
    has for tied SAEs. The gradient of |w| at 0 is 0.
    """
    _add_(setting, weights.enc, grads.enc)
    _add_(setting, weights.dec, grads.dec)


def _add_(setting: Setting, weight: Tensor, grad: Tensor) -> None:
    match setting.penalty:
        case "none":
            return
        case "l1":
            grad.add_(weight.sign(), alpha=setting.strength / weight.numel())
        case "l2":
            grad.add_(weight, alpha=2 * setting.strength)
        case "frobenius":
            grad.add_(weight, alpha=setting.strength / float(vector_norm(weight)))
        case _:
            assert_never(setting.penalty)
