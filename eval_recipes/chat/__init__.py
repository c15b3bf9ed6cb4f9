"""Chat models behind any OpenAI-compatible server: cached, budgeted, retried."""

from eval_recipes.chat.budget import Budget
from eval_recipes.chat.client import JudgeClient, check_judge
from eval_recipes.chat.config import KEY_VARIABLE, JudgeConfig, read_key
from eval_recipes.chat.errors import (
    BudgetExceeded,
    JudgeError,
    JudgeUnavailable,
    RequestRefused,
)
from eval_recipes.chat.messages import Message, Reply

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
