"""Faults of chat models, and of what is said about them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from eval_recipes.chat import KEY_VARIABLE
from eval_recipes.results.files import result_path
from eval_recipes.results.folder import KIND
from saereg_plugin.owned_folder import OwnedFolder
from tests.eval_recipes.chat.openai_server import KEY, bomb, good_reply
from tests.faults.fault import Fault, Place

ASK = (
    "run --sae-release {release} --out {results} --evals autointerp --judge-model judge "
    "--artifacts {here}/artifacts --heldout-tokens 2000 --sae-id none-seed0 "
    "--option autointerp.latents=[0,1,2] --option autointerp.total_tokens=20000 "
    "--option autointerp.llm_context_size=32 --option autointerp.judge_timeout_seconds=1 "
    "--option autointerp.judge_attempts=1 --option autointerp.judge_concurrency=2"
)
"""Explain and score three latents; the address is missing."""
HERE = f"{ASK} --judge-base-url {{judge}}"
STEER = (
    "run --sae-release {release} --out {results} --evals steering --judge-model judge "
    "--option steering.judge_timeout_seconds=1"
)


def _earlier(place: Place) -> list[Path]:
    """Return where results of an earlier run are."""
    evals = ("core", "autointerp", "steering")
    return [result_path(place.results, eval, "release", "none-seed0") for eval in evals]


def _arranged(**settings: object) -> Callable[[Place], None]:
    """Return what sets the server up next to a result of an earlier run."""

    def arrange(place: Place) -> None:
        for name, value in settings.items():
            setattr(place.judge, name, value)
        core, *others = _earlier(place)
        owned = OwnedFolder(place.results, KIND)
        owned.claim(path.relative_to(place.results).as_posix() for path in others)
        for path in others:
            path.parent.mkdir()
            shutil.copy(core, path)

    return arrange


def _nothing_lost(place: Place) -> None:
    contents = [path.read_text() for path in _earlier(place)]
    assert len(set(contents)) == 1
    _no_key(place)
    # a name without a file could be the user's tomorrow
    listed = OwnedFolder(place.results, KIND).files()
    results = [name for name in listed if name.endswith("_results.json")]
    assert len(results) > 3 and all((place.results / name).exists() for name in results)


def _nothing_asked(place: Place) -> None:
    _nothing_lost(place)
    assert not place.judge.paths


def _no_key(place: Place) -> None:
    files = [path for path in place.here.rglob("*") if path.is_file()]
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def _key(key: str, place: Place) -> None:
    _arranged()(place)
    os.environ[KEY_VARIABLE] = key


def _drips(place: Place) -> None:
    place.judge.always = "drip body"


def _bombs(place: Place) -> None:
    # made before anyone waits for it
    bomb()
    place.judge.always = "gzip"


def _ctrl_c(place: Place) -> None:
    """Press Ctrl-C once two requests wait for a dripping server."""
    _drips(place)

    def press() -> None:
        while place.judge.at_once < 2 and not place.judge.closing.wait(0.01):
            pass
        place.judge.times.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()


def _ended_at_once(place: Place) -> None:
    assert time.monotonic() - place.judge.times[-1] < 2
    assert len(place.judge.chats) == 2
    assert not list(place.here.rglob("*.tmp"))


def _asked_once_each(place: Place) -> None:
    bodies = [json.dumps(body) for body in place.judge.chats]
    assert len(bodies) == len(set(bodies)) <= 3
    assert place.judge.sent < 60e6
    replies = place.here / "artifacts" / "judge" / "replies"
    assert not list(replies.rglob("*.json"))


def _surrogate(place: Place) -> None:
    place.judge.reply = lambda messages: good_reply(messages).replace(
        "on ", "on \ud800\x00\x1b[2J "
    )


def _explained(place: Place) -> None:
    path = result_path(place.results, "autointerp", "release", "none-seed0")
    details = json.loads(path.read_text())["eval_result_details"]
    assert len(details) == 3
    assert all("\ufffd" in one["explanation"] for one in details)
    assert not [one for one in details if "\x1b" in one["explanation"]]


def _few_requests(place: Place) -> None:
    assert len(place.judge.chats) < 6


_MOVED = "http://elsewhere.invalid/v1/chat"

FAULTS = [
    Fault(
        name="judge drips its list of models",
        row="D22",
        arrange=_arranged(list_fault="drip body"),
        command=HERE,
        status=2,
        words=r"No judge answers at http://127.* within 1 s",
        holds=_nothing_lost,
    ),
    Fault(
        name="judge drips its replies",
        row="D22",
        arrange=_drips,
        command=HERE,
        status=1,
        words=r"no complete reply within 1 s",
        slow=True,
    ),
    Fault(
        name="one Ctrl-C while replies drip",
        row="D22",
        arrange=_ctrl_c,
        command=HERE.replace("timeout_seconds=1", "timeout_seconds=60"),
        status=130,
        words="",
        holds=_ended_at_once,
        slow=True,
    ),
    Fault(
        name="judge replies 100 MB",
        row="D23",
        arrange=lambda place: setattr(place.judge, "always", "long"),
        command=HERE,
        status=1,
        words=r"the reply has more than [0-9,]+ bytes",
        holds=_asked_once_each,
        slow=True,
    ),
    Fault(
        name="judge replies 100 MB, compressed",
        row="D23",
        arrange=_bombs,
        command=HERE,
        status=1,
        words=r"the reply has more than [0-9,]+ bytes",
        holds=_asked_once_each,
        slow=True,
    ),
    Fault(
        name="judge counts negative tokens",
        row="D24",
        arrange=lambda place: setattr(
            place.judge, "usage", {"prompt_tokens": -100_000, "completion_tokens": -1}
        ),
        command=HERE + " --option autointerp.judge_max_tokens=5000",
        status=1,
        words=r"budget is used up \([0-9]+ of 5000 tokens",
        holds=_few_requests,
        slow=True,
    ),
    Fault(
        name="judge redirects to another host",
        row="message",
        arrange=_arranged(list_fault="redirect", moved=_MOVED),
        command=HERE,
        status=2,
        words=rf"judge answers at http://127\S+ \(it redirects to {_MOVED}, and prompts",
        holds=_nothing_lost,
    ),
    Fault(
        name="judge refuses the key",
        row="D6",
        arrange=_arranged(list_fault="401"),
        command=HERE,
        status=2,
        words=r"refuses the key in the environment variable OPENAI_API_KEY .*\*\*\*",
        holds=_nothing_lost,
    ),
    Fault(
        name="judge does not serve the model",
        row="D6",
        arrange=_arranged(models=["judge-2"], always="404"),
        command=HERE,
        status=2,
        words=r"does not serve the model 'judge' .*Did you mean 'judge-2'",
        holds=_nothing_lost,
    ),
    Fault(
        name="judge is down",
        row="D6",
        arrange=_arranged(),
        command=f"{ASK} --judge-base-url http://127.0.0.1:9/v1",
        status=2,
        words=r"No judge answers at http://127\.0\.0\.1:9/v1 .*Connection refused",
        holds=_nothing_lost,
    ),
    Fault(
        name="judge of steering is down",
        row="D6",
        arrange=_arranged(),
        command=f"{STEER} --judge-base-url http://127.0.0.1:9/v1",
        status=2,
        words=r"No judge answers at http://127\.0\.0\.1:9/v1",
        holds=_nothing_lost,
    ),
    *(
        Fault(
            name=f"key {what}",
            row="message",
            arrange=partial(_key, key),
            command=HERE,
            status=2,
            words=r"environment variable OPENAI_API_KEY (holds a line break|is not set)",
            holds=_nothing_asked,
        )
        for what, key in (
            ("with a line break", f"{KEY[:6]}\n{KEY[6:]}"),
            ("not in ASCII", f"{KEY}é"),
            ("of blanks", "  "),
        )
    ),
    *(
        Fault(
            name=f"address of the judge is {what}",
            row="message",
            arrange=_arranged(),
            command=command,
            status=2,
            words=words,
            holds=_nothing_asked,
        )
        for what, command, words in (
            ("empty", f"{ASK} --judge-base-url ''", "base URL is empty; expected"),
            ("empty in steering", f"{STEER} --judge-base-url ''", "base URL is empty"),
            (
                "no address",
                f"{ASK} --judge-base-url localhost",
                "'localhost'; expected",
            ),
            (
                "an empty option",
                f"{ASK} --option autointerp.judge_base_url=",
                "'autointerp.judge_base_url=' has no value",
            ),
        )
    ),
    Fault(
        name="explanation with a lone surrogate and control characters",
        row="message",
        arrange=_surrogate,
        command=HERE,
        status=0,
        words="",
        holds=_explained,
        slow=True,
    ),
]
