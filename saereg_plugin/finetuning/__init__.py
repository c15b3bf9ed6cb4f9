"""Fine-tuning of a release's SAEs on a language model's own loss."""

from saereg_plugin.finetuning.run import finetune, plan_finetune
from saereg_plugin.finetuning.settings import FineTune

__all__ = ["FineTune", "finetune", "plan_finetune"]
