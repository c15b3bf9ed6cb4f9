"""A check, before anything expensive, that a judge can work at all."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from eval_recipes.chat.config import KEY_VARIABLE, JudgeConfig
from eval_recipes.chat.deadline import Deadline
from eval_recipes.chat.errors import (
    AttemptError,
    DeadlinePassed,
    Redirected,
    StatusError,
    Unreachable,
)
from eval_recipes.chat.exchange import Server
from eval_recipes.chat.messages import most_bytes
from saereg_plugin.errors import InputError, suggest

_SECONDS = 5.0
_PROBE_SECONDS = 15.0
# some hundreds of models with a page of text on each
_MOST_OF_LIST = 1 << 23


def check_reachable(
    server: Server,
    config: JudgeConfig,
    signal: threading.Event,
    redacted: Callable[[str], str],
) -> None:
    """
    Ask for the list of models and, if the model is not in it, for one token.

    Servers may lack the list, or know models by more names than it holds. A server that is
    overloaded is there: waiting for it is left to the requests themselves.

    Args:
        server: where to ask.
        config: of the judge; neither question takes longer than its timeout.
        signal: ends the check when it is set.
        redacted: blanks the key of the server in a text.

    Raises:
        InputError: if nobody answers, or key or model are refused.
    """

    def deadline(seconds: float) -> Deadline:
        return Deadline(min(seconds, config.timeout_seconds), signal)

    names = _model_names(server, config, deadline(_SECONDS), redacted)
    if config.model in names:
        return
    try:
        server.post(
            "/chat/completions",
            {
                "model": config.model,
                "messages": [{"role": "user", "content": "Hello"}],
                "max_tokens": 1,
            },
            deadline=deadline(_PROBE_SECONDS),
            max_bytes=most_bytes(1),
        )
    except (Unreachable, Redirected) as error:
        raise _unusable(config, redacted(str(error))) from None
    except StatusError as error:
        _require_key(error, config, redacted)
        if error.status == 404 or "model" in error.code:
            raise InputError(
                f"The judge at {config.url} does not serve the model {config.model!r} "
                f"({redacted(str(error))[:300]}). {suggest(config.model, names)}"
            ) from None
    except AttemptError:
        # slow, or not as expected: the requests themselves will tell
        return


def _model_names(
    server: Server,
    config: JudgeConfig,
    deadline: Deadline,
    redacted: Callable[[str], str],
) -> list[str]:
    """Return the models that the server lists; none if it has no list."""
    try:
        page: Any = server.get("/models", deadline=deadline, max_bytes=_MOST_OF_LIST)
    except (Unreachable, DeadlinePassed, Redirected) as error:
        raise _unusable(config, redacted(str(error))) from None
    except StatusError as error:
        _require_key(error, config, redacted)
        return []
    except AttemptError:
        return []
    models = page.get("data") if isinstance(page, dict) else None
    if not isinstance(models, list):
        return []
    return [
        str(model["id"])
        for model in models
        if isinstance(model, dict) and "id" in model
    ]


def _require_key(
    error: StatusError, config: JudgeConfig, redacted: Callable[[str], str]
) -> None:
    if error.status in (401, 403):
        raise InputError(
            f"The judge at {config.url} refuses the key in the environment variable "
            f"{KEY_VARIABLE} ({redacted(str(error))[:300]})."
        ) from None


def _unusable(config: JudgeConfig, said: str) -> InputError:
    return InputError(
        f"No judge answers at {config.url} ({said}); expected an OpenAI-compatible server. "
        "Start it, or give its address as the judge's base URL."
    )
