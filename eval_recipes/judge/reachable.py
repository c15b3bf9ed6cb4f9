"""Whether a judge can work at all, found out before anything expensive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai

from eval_recipes.judge.config import KEY_VARIABLE, JudgeConfig
from saereg_plugin.errors import InputError, suggest

_SECONDS = 5.0
_PROBE_SECONDS = 15.0


def check_reachable(
    api: openai.OpenAI, config: JudgeConfig, redacted: Callable[[str], str]
) -> None:
    """
    Ask for the list of models and, if the model is not in it, for one token.

    Servers may lack the list, or know models by more names than it holds. A server that is
    overloaded is there: waiting for it is left to the requests themselves.

    Raises:
        InputError: if nobody answers, or key or model are refused.
    """
    names = _model_names(api, config, redacted)
    if config.model in names:
        return
    try:
        api.with_options(timeout=_PROBE_SECONDS).chat.completions.create(
            model=config.model,
            messages=[{"role": "user", "content": "Hello"}],
            max_tokens=1,
        )
    except openai.APITimeoutError:
        return
    except openai.APIConnectionError as error:
        raise _unreachable(config, redacted(str(error))) from None
    except openai.APIStatusError as error:
        if error.status_code in (401, 403):
            raise _key_refused(config, redacted(str(error))) from None
        if error.status_code == 404 or "model" in str(error.code or ""):
            raise InputError(
                f"The judge at {config.url} does not serve the model {config.model!r} "
                f"({redacted(str(error))}). {suggest(config.model, names)}"
            ) from None
    except (openai.OpenAIError, ValueError):
        return


def _model_names(
    api: openai.OpenAI, config: JudgeConfig, redacted: Callable[[str], str]
) -> list[str]:
    """Return the models that the server lists; none if it has no list."""
    try:
        page: Any = api.with_options(timeout=_SECONDS).models.list()
        return [str(model.id) for model in page.data]
    except openai.APIConnectionError as error:
        raise _unreachable(config, redacted(str(error))) from None
    except openai.APIStatusError as error:
        if error.status_code in (401, 403):
            raise _key_refused(config, redacted(str(error))) from None
        return []
    except (openai.OpenAIError, ValueError, AttributeError, TypeError):
        return []


def _unreachable(config: JudgeConfig, said: str) -> InputError:
    return InputError(
        f"No judge answers at {config.url} ({said}); expected an OpenAI-compatible server. "
        "Start it, or give its address as the judge's base URL."
    )


def _key_refused(config: JudgeConfig, said: str) -> InputError:
    return InputError(
        f"The judge at {config.url} refuses the key in the environment variable "
        f"{KEY_VARIABLE} ({said})."
    )
