"""Faults of what a training command is given: fields, names, devices, sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import yaml

from tests.faults.fault import TRAIN, Fault, Place

NEW = f"{TRAIN} --out new"
FROM_FILE = "train --config sweep.yaml --out new"
SAE = {"architecture": "regularized_topk", "d_sae": 64, "k": 4}


def _nothing_was_written(place: Place) -> None:
    written = [path.parent for path in place.here.glob("*/sweep.json")]
    assert written == [place.release]
    assert not (place.here / "new").exists() or not list((place.here / "new").iterdir())


def _sweep(**changes: Any) -> Callable[[Place], None]:
    """Write sweep.yaml of two seeds, with other fields."""

    def arrange(place: Place) -> None:
        values = {
            "model": str(place.model),
            "hook_name": "blocks.0.hook_resid_post",
            "sae": SAE,
            "tokens": 4096,
            "batch_size": 512,
            "seeds": [0, 1],
            **changes,
        }
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        (place.here / "sweep.yaml").write_text(text, encoding="utf-8")

    return arrange


def _text(text: str | bytes) -> Callable[[Place], None]:
    """Write sweep.yaml as it is."""

    def arrange(place: Place) -> None:
        content = text if isinstance(text, bytes) else text.encode()
        (place.here / "sweep.yaml").write_bytes(content)

    return arrange


def _refused(name: str, row: str, words: str, **changes: Any) -> Fault:
    """A sweep.yaml that is refused with status 2 before anything is written."""
    return Fault(
        name=name,
        row=row,
        arrange=_sweep(**changes),
        command=FROM_FILE,
        status=2,
        words=words,
        holds=_nothing_was_written,
    )


def _flag(name: str, row: str, flags: str, words: str) -> Fault:
    """Flags that are refused with status 2 before anything is written."""
    return Fault(
        name=name,
        row=row,
        command=f"{NEW} {flags}",
        status=2,
        words=words,
        holds=_nothing_was_written,
    )


def _named(name: str, out: str, words: str) -> Fault:
    """An output folder or name that is refused with status 2 before training."""
    return Fault(
        name=name,
        row="D15",
        command=f"{TRAIN} {out}",
        status=2,
        words=words,
        holds=_nothing_was_written,
    )


FAULTS = [
    # D17: seeds and k are whole
    _refused("seed 1.5", "D17", r"seeds has 1\.5; expected a whole", seeds=[1, 1.5]),
    _refused(
        "seed 2**70",
        "message",
        r"seeds has 11805.*expected at most 4294967295",
        seeds=[2**70],
    ),
    _refused(
        "seed text", "message", r"seeds has 'one'; expected a whole", seeds=["one"]
    ),
    _refused("seed true", "D17", r"seeds has True; expected a whole", seeds=[True]),
    _refused(
        "k 2.5 for topk",
        "D17",
        r"Group 'sae': k=2\.5; expected a whole number",
        sae={**SAE, "k": 2.5},
    ),
    _refused(
        "k four",
        "message",
        r"Group 'sae': k='four'; expected a whole number",
        sae={**SAE, "k": "four"},
    ),
    _refused(
        "k true in the grid",
        "message",
        r"Group 'sae-kTrue': k=True; expected a whole number",
        grid={"k": [True]},
    ),
    _refused(
        "regularizers 5",
        "message",
        r"Group 'sae': regularizers is 5; expected a list",
        sae={**SAE, "regularizers": 5},
    ),
    _refused(
        "regulariser of another type",
        "message",
        r"Group 'sae': Regulariser 5 has no name",
        sae={**SAE, "regularizers": [5]},
    ),
    _refused(
        "dtype of an SAE",
        "message",
        r"Group 'sae': Models cannot compute in dtype 'int8'",
        sae={**SAE, "dtype": "int8"},
    ),
    # D20
    Fault(
        name="lr twice in sweep.yaml",
        row="D20",
        arrange=_text("hook_name: a\nlr: 1e-3\nsae: {}\nlr: 2e-3\n"),
        command=FROM_FILE,
        status=2,
        words=r"line 4: the key 'lr' occurs twice",
    ),
    # types of other fields
    _refused("hook 5", "message", r"hook_name=5; expected text", hook_name=5),
    _refused(
        "group 1", "message", r"groups has the key 1; expected text", groups={1: {}}
    ),
    _refused(
        "text for a switch",
        "message",
        r"autocast='off'; expected true, false or 'auto'",
        autocast="off",
    ),
    _refused("lr of 400 digits", "message", r"lr=1000.*expected a number", lr=10**400),
    _refused("empty grid", "message", r"grid: 'k' is \[\]", grid={"k": []}),
    _refused(
        "list in the grid",
        "message",
        r"grid: 'k' is \[\[4, 8\]\]; .* Lists",
        grid={"k": [[4, 8]]},
    ),
    Fault(
        name="binary sweep.yaml",
        row="message",
        arrange=_text(b"\x89PNG\r\n\x1a\n\x00\xff"),
        command=FROM_FILE,
        status=2,
        words=r"sweep\.yaml' is no YAML: it is not UTF-8",
    ),
    Fault(
        name="deeply nested sweep.yaml",
        row="message",
        arrange=_text("sae: " + "[" * 200 + "]" * 200),
        command=FROM_FILE,
        status=2,
        words=r"nested too deeply",
    ),
    # names
    _named("--out .x", "--out .x", r"Release name '\.x' begins with a dot"),
    _named("--name ../x", "--out new --name ../x", r"name '\.\./x' begins with a dot"),
    _named("--name with NUL", "--out new --name 'a\x00b'", r"has control characters"),
    _named("--name no UTF-8", "--out new --name 'a\udcff'", r"no text in UTF-8"),
    _named("--name empty", "--out new --name ''", r"Release name '' is empty"),
    _named(
        "--name too long",
        f"--out new --name {'n' * 201}",
        r"has 201 bytes, and becomes",
    ),
    _refused(
        "id too long",
        "message",
        r"SAE id '.*' has 205 bytes",
        groups={"g" * 199: {}},
    ),
    Fault(
        name="name and id too long together",
        row="message",
        arrange=_sweep(groups={"g" * 120: {}}),
        command=f"{FROM_FILE} --name {'n' * 120}",
        status=2,
        words=r"have 2[0-9]+ bytes together, .* expected at most 222",
        holds=_nothing_was_written,
    ),
    _named(
        "--name of a public release",
        "--out new --name gpt2-small-res-jb",
        r"'gpt2-small-res-jb' is that of a public release",
    ),
    # devices and dtypes
    _flag("device tpu9", "message", "--device tpu9", r"Unknown device 'tpu9'"),
    _flag("device gpu", "message", "--device gpu", r"Unknown device 'gpu'"),
    _flag(
        "device that is missing",
        "message",
        "--device cuda:99",
        r"Device 'cuda:99' (is not available|does not exist)",
    ),
    _flag("dtype int8", "message", "--llm-dtype int8", r"compute in dtype 'int8'"),
    # sizes
    _refused(
        "context_size above the model's",
        "message",
        r"context_size=257 is more than model .* takes; expected at most 256",
        context_size=257,
        batch_size=257,
    ),
    _refused(
        "grid of 10^12",
        "message",
        r"has 2,000,000,000,000 SAEs .*expected at most 4,096",
        grid={name: list(range(1000)) for name in ("k", "d_sae", "l1", "l2")},
    ),
    _refused("10^18 tokens", "message", r"tokens=10+; expected at most", tokens=1e18),
    _flag(
        "d_sae of 10^18", "message", "--d-sae 1" + "0" * 18, r"d_sae=10+; expected 1"
    ),
    *(
        Fault(
            name=f"{what}{dry}",
            row="message",
            arrange=_sweep(**changes),
            command=FROM_FILE + dry,
            status=2,
            words=r"needs at least [0-9,.]+ GiB of memory: .* has [0-9,.]+ GiB",
            holds=_nothing_was_written,
        )
        for what, changes in (
            ("buffer_tokens of 10^12", {"buffer_tokens": 1e12}),
            ("prompts_per_pass of 10^12", {"prompts_per_pass": 1e12}),
            ("SAEs that do not fit", {"sae": {**SAE, "d_sae": 2**31 - 1}}),
        )
        for dry in ("", " --dry-run")
    ),
    # what is printed
    Fault(
        name="markup in --out",
        row="message",
        command=f"{TRAIN} --out 'x[/red]y[b]:bug:z' --name sound",
        status=0,
        words=r"with 2 SAEs is in x\[/red\]y\[b\]:bug:z\.",
    ),
]
