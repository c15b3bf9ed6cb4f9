"""Folders of results for the browser: ordinary, hostile and wide ones."""

from __future__ import annotations

import json
import random
from pathlib import Path

from eval_recipes.results.files import write_summary
from saereg_plugin.owned_folder import open_owned
from saereg_plugin.releases.release import Entry, Release, write_release
from tests.eval_recipes.report.figures.figure_files import (
    write_figures,
    write_layers,
    write_pool,
    write_revival,
    write_study,
)
from tests.eval_recipes.report.latents.latent_files import (
    write_examples,
    write_explanations,
    write_input_examples,
    write_stability,
    write_texts,
)
from tests.eval_recipes.report.result_files import (
    PENALTIES,
    RELEASE,
    SEEDS,
    autointerp,
    core,
    cross_seed,
    write,
    write_all,
)

STEERED = [4, 5]
EXPLAINED = [3, 4, 5]

RUN = "window.ran=1"
"""What hostile text would do if it were run."""

GROUP = f'"><img src=x onerror="{RUN}">\U0001f600\u202e & <b>'
SAE = f"</script><script>{RUN}</script><b>x</b> &lt;i&gt;"
NAME = f"</title><svg onload={RUN}><b>%s</b> &lt;i&gt;"
"""Pattern of other names: of a model, a hook, a text, a judge, a command."""
TOKENS = {
    f"<script>{RUN}</script>": None,
    f"</script><img src=x onerror={RUN}>": None,
    "<b>bold</b>": None,
    "&lt;&amp;&#39;": None,
    "${" + RUN + "}": None,
    "\U0001f600": None,
    "\U0001f469\u200d\U0001f52c": None,
    "שלום": None,
    "\u202eturned": "U+202Eturned",
    "one\ntwo": "one↵two",
    "\n": "↵",
    "\t": "⇥",
    "\r": "\\r",
    "\0": "U+0000",
    "  ": "··",
    "": "∅",
}
"""Tokens, and how each is shown where that is not the token itself."""

LONG = ("<script>window.ran=1</script></p> \U0001f600 שלום\n" * 2_000 + "x" * 100_000)[
    :100_000
]
"""A text of 100 kB."""

_WIDTH = 4608


def write_everything(folder: Path) -> Path:
    """Write results with metrics and tables of all SAEs."""
    write_all(folder)
    for group in PENALTIES:
        for seed in SEEDS:
            write_stability(folder, group, seed)
            write_examples(folder, group, seed, words=(" one", " two", " three"))
    write_explanations(folder, "none", 0, EXPLAINED)
    write_texts(folder, "none", 0, STEERED)
    write_figures(folder)
    write_summary(folder)
    return folder


def write_inputs(folder: Path) -> Path:
    """Write results of SAEs on images and on clips, whose titles are hostile."""
    open_owned(folder, "results")
    for seed in SEEDS:
        write_stability(folder, "images", seed)
        write_input_examples(folder, "images", seed, title=SAE)
    write_input_examples(folder, "clips", 0, kind="clips", title=SAE)
    write_summary(folder)
    return folder


def write_hostile(folder: Path) -> Path:
    """Write results, and their release, of which every name and text is hostile."""
    write_all(folder)
    for seed in SEEDS:
        write_stability(folder, GROUP, seed)
        write_examples(folder, GROUP, seed, words=list(TOKENS))
    write_explanations(folder, GROUP, 0, EXPLAINED, text=f"{SAE}<b>\n\U0001f600")
    write_texts(folder, GROUP, 0, STEERED[:1], more=LONG)
    for make in (core, cross_seed, autointerp):
        named = make("named", 7) | {"sae_lens_id": SAE, "sae_lens_release_id": SAE}
        write(folder, named, name="named")
    for path in folder.rglob("*_eval_results.json"):
        _rename(path)
    write_revival(folder / "revival.json", group=GROUP)
    write_pool(folder / "pool.json", group=SAE)
    write_layers(folder / "layers.json", hook=SAE, group=NAME % "layer")
    write_study(folder / "results.json", notes=[NAME % "note"], command=SAE)
    write_summary(folder)
    _write_hostile_release(folder.parent / "release")
    return folder


def _rename(path: Path) -> None:
    """Give a result hostile names of everything that it was made with."""
    one = json.loads(path.read_text())
    about = one["sae_cfg_dict"]["metadata"]
    about |= {"model_name": NAME % "model", "hook_name": NAME % "hook"}
    about |= {"dataset_path": NAME % "dataset"}
    one["eval_config"] |= {"corpus": NAME % "corpus", "judge_model": NAME % "judge"}
    path.write_text(json.dumps(one))


def _write_hostile_release(folder: Path) -> None:
    """Write a release with a hostile group, hostile training and records."""
    entries = [
        Entry(f"{group}-seed{seed}", f"saes/{n}-{seed}", group, seed)
        for n, group in enumerate(("none", GROUP))
        for seed in SEEDS
    ]
    about = {
        "command": NAME % "command",
        "created": NAME % "created",
        "versions": {NAME % "package": NAME % "version"},
        "stopped": [NAME % "cause"],
    }
    (folder / "records").mkdir(parents=True)
    write_release(Release(RELEASE, NAME % "model", tuple(entries), folder, about))
    for entry in entries:
        lines = [{"step": n, "tokens": n * 8, "loss": 2.0**-n} for n in (1, 2)]
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        (folder / "records" / f"{entry.sae_id}.jsonl").write_text(text)


def write_wide(folder: Path) -> Path:
    """Write results of six SAEs of 4,608 latents, a few hundred with examples."""
    draw = random.Random(0)
    letters = "etaoinshrdlu"
    words = [f" {''.join(draw.choices(letters, k=5))}" for _ in range(5_003)]
    shown = range(310)
    write_all(folder)
    for group in PENALTIES:
        for seed in SEEDS:
            write_stability(folder, group, seed, n=_WIDTH)
            write_examples(folder, group, seed, words=words, n=_WIDTH, latents=shown)
            write_explanations(folder, group, seed, [*shown], n=_WIDTH)
    write_summary(folder)
    return folder
