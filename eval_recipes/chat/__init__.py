"""Chat models behind any OpenAI-compatible server: cached, budgeted, retried."""

from eval_recipes.chat.budget import Budget
from eval_recipes.chat.client import JudgeClient, check_judge
from eval_recipes.chat.errors import (
    BudgetExceeded,
    JudgeError,
    JudgeUnavailable,
    RequestRefused,
)
from eval_recipes.chat.messages import Message, Reply
from eval_recipes.chat.options import KEY_VARIABLE, JudgeConfig, read_key

__all__ = [
    "KEY_VARIABLE",
    "Budget",
    "BudgetExceeded",
    "JudgeClient",
    "JudgeConfig",
    "JudgeError",
    "JudgeUnavailable",
    "Message",
    "Reply",
    "RequestRefused",
    "check_judge",
    "read_key",
]
