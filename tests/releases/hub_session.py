"""
One process that pushes a release to a hub on loopback, loads it again and evaluates it.

``HF_ENDPOINT`` is read when huggingface_hub is imported, so this is a process of its own. It
forks before saereg_plugin is imported: the child loads with SAELens alone. What every step
printed and found is written as JSON, which tests/releases/test_hub.py reads.
"""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from tests.hub_server import READ_TOKEN, TOKEN, Fault, Hub, serving

NAME = "lab/saes"
Step = dict[str, Any]


def main(release: Path, out: Path) -> None:
    os.environ |= {
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HOME": str(out / "hf"),
        "HF_TOKEN": TOKEN,
        "COLUMNS": "200",
    }
    alone = _Alone(out)
    with serving(between=alone.start) as hub:
        session = _Session(release, out, hub)
        session.refusals()
        session.pushes()
        alone.load(
            alone=hub.repositories[NAME].commits[-1].files["README.md"].decode(),
            branch=session.branch_files["README.md"].decode(),
        )
        session.loads()
        session.evaluates()
        session.is_tampered_with()
        session.opens_others()
        session.opens_dictionaries()
        session.facts["asked"] = dict(hub.asked)
        session.facts["wrong"] = hub.wrong
    session.write()


class _Alone:
    """A fork of this process that imports SAELens, and never saereg_plugin."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.ours, self.its = multiprocessing.get_context("fork").Pipe()

    def start(self, url: str) -> None:
        os.environ["HF_ENDPOINT"] = url
        import sae_lens  # noqa: F401

        context = multiprocessing.get_context("fork")
        self.process = context.Process(target=self._run, daemon=True)
        self.process.start()

    def load(self, **cards: str) -> None:
        """Run the first snippet of each card in the fork; save its SAE under the card's name."""
        found = re.compile(r"```python\n(.*?)```", flags=re.DOTALL)
        self.ours.send({name: found.findall(card)[0] for name, card in cards.items()})
        self.process.join(120)
        assert self.process.exitcode == 0

    def _run(self) -> None:
        from safetensors.torch import save_file

        for name, snippet in self.its.recv().items():
            scope: dict[str, Any] = {}
            exec(snippet, scope)
            save_file(scope["sae"].state_dict(), self.out / f"{name}.safetensors")
        assert not [name for name in sys.modules if name.startswith("saereg_plugin")]


class _Session:
    """Steps in their order; each adds what it printed to ``steps``."""

    def __init__(self, release: Path, out: Path, hub: Hub) -> None:
        self.release, self.out, self.hub = release, out, hub
        self.steps: dict[str, Step] = {}
        self.facts: dict[str, Any] = {}

    def write(self) -> None:
        text = json.dumps({"steps": self.steps, "facts": self.facts})
        (self.out / "session.json").write_text(text)

    def command(self, step: str, *words: str) -> Step:
        """Run ``saereg-bench`` in this process."""
        from eval_recipes import cli

        out, err = io.StringIO(), io.StringIO()
        sys.argv = ["saereg-bench", *words]
        status: Any = 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                cli.main()
            except SystemExit as end:
                status = end.code
        found = {"status": status or 0, "out": out.getvalue(), "err": err.getvalue()}
        self.steps[step] = found
        return found

    def push(self, step: str, *words: str, name: str = NAME) -> Step:
        return self.command(step, "push", str(self.release), name, *words)

    def run(self, step: str, name: str, *words: str) -> Step:
        given = ["--evals", "cross_seed", "--offline", "--heldout-tokens", "1024"]
        given += ["--option", "cross_seed.n_resamples=50"]
        given += ["--artifacts", str(self.out / "artifacts")]
        where = ["--out", str(self.out / "results")]
        return self.command(step, "run", "--sae-release", name, *where, *given, *words)

    def refusals(self) -> None:
        """Everything that ends before a commit."""
        self.push("dry run", "--dry-run")
        self.facts["asked by a dry run"] = dict(self.hub.asked)
        del os.environ["HF_TOKEN"]
        self.push("no token")
        for step, token in (
            ("wrong token", "hf_notAToken"),
            ("token that reads", READ_TOKEN),
        ):
            os.environ["HF_TOKEN"] = token
            self.push(step)
        os.environ["HF_TOKEN"] = TOKEN
        self.push("owner of others", name="other/saes")
        for step, route, fault in (
            ("409", "create", Fault(409, words="exists")),
            ("429", "create", Fault(429, headers={"Retry_After": "7"})),
            ("500", "create", Fault(500)),
            ("cut", "create", Fault(0)),
            ("echo", "create", Fault(403, words=f"{TOKEN} may not")),
        ):
            self.hub.faults[route] = fault
            self.push(step)
        self.facts["before"] = sorted(self.hub.repositories)

    def pushes(self) -> None:
        self.hub.faults["modes"] = Fault(404, headers={"code": "RepoNotFound"})
        self.push("404")
        self.hub.faults["large"] = Fault(400)
        self.push("a large file is refused")
        self.facts["large files before"] = len(self.hub.large)
        sent = self.hub.asked["large"]
        self.hub.faults["commit"] = Fault(0)
        self.push("cut at the commit")
        self.facts["sent again"] = self.hub.asked["large"] - sent
        sent = self.hub.asked["large"]
        self.push("push")
        self.facts["sent at last"] = self.hub.asked["large"] - sent
        self.push("push again")
        commits = self.hub.repositories[NAME].commits
        self.facts["commits"] = [[c.oid, c.title, sorted(c.files)] for c in commits]
        self.facts["card"] = commits[-1].files["README.md"].decode()
        self.push("private after all", "--private")
        self.push("branch", "--private", "--revision", "v1", name="lab/private")
        private = self.hub.repositories["lab/private"]
        self.branch_files = private.find("v1").files  # type: ignore[union-attr]
        self.facts["private"] = private.private
        self.facts["branches"] = {
            name: len(private.find(name).files)  # type: ignore[union-attr]
            for name in private.branches
        }

    def loads(self) -> None:
        import torch
        from sae_lens import SAE
        from safetensors.torch import load_file

        import saereg_plugin as sr
        from saereg_plugin.sweeps.matched import matched_sweep

        shutil.rmtree(self.out / "hf")
        self.pinned = f"{NAME}@{self.hub.repositories[NAME].branches['main']}"
        local = sr.open_release(self.release)
        opened = sr.register_release(self.pinned)
        newest = sr.open_release(NAME)
        first = local.ids[0]
        weights = {
            **{
                n: load_file(self.out / f"{n}.safetensors") for n in ("alone", "branch")
            },
            "pinned": SAE.from_pretrained(self.pinned, first).state_dict(),
            "newest": SAE.from_pretrained(NAME, first).state_dict(),
            "release": opened.load(first).state_dict(),
        }
        expected = local.load(first).state_dict()
        self.facts["equal weights"] = {
            name: state.keys() == expected.keys()
            and all(torch.equal(state[key], expected[key]) for key in expected)
            for name, state in weights.items()
        }
        self.facts["names"] = [opened.name, newest.name, self.pinned]
        self.facts["groups"] = [opened.groups, local.groups]
        self.facts["matched"] = list(matched_sweep(self.pinned).matched_to.values())
        downloaded = self.hub.asked["file"]
        self.hub.faults["info"] = Fault(503)
        self.facts["out of reach"] = sr.open_release(self.pinned).load(first).cfg.d_sae
        self.facts["downloads out of reach"] = self.hub.asked["file"] - downloaded

    def evaluates(self) -> None:
        self.run("evaluate", self.pinned)
        from saereg_plugin.owned_folder import OwnedFolder

        results = self.out / "results"
        self.facts["results"] = sorted(p.name for p in results.rglob("*.json"))
        OwnedFolder(results, "results").claim(["report.html"])
        (results / "report.html").write_text("<p>report")
        (results / "mine.txt").write_text("private")
        self.push("push results", "--results", str(results))
        commit = self.hub.repositories[NAME].commits[-1]
        self.facts["pushed results"] = [f for f in commit.files if f.startswith("res")]
        self.facts["card with results"] = commit.files["README.md"].decode()

    def is_tampered_with(self) -> None:
        files = self.hub.repositories[NAME].commits[-1].files
        (first, *_) = sorted(f for f in files if f.endswith("sae_weights.safetensors"))
        content = bytearray(files[first])
        content[-5] ^= 1
        self.hub.put(NAME, {first: bytes(content)})
        self.run("tampered weights", NAME)
        self.run("pinned before", self.pinned)
        manifest = files["release.yaml"].replace(b"seed: 0", b"seed: 5", 1)
        self.hub.put(NAME, {"release.yaml": manifest})
        self.run("tampered manifest", NAME)
        self.run("no such revision", f"{NAME}@nope")
        self.run("no such repository", "lab/nothing")

    def opens_others(self) -> None:
        """Open a repository in SAELens' format without our manifest."""
        import torch

        import saereg_plugin as sr

        files: dict[str, bytes] = {}
        local = sr.open_release(self.release)
        for number, entry in enumerate(local.entries):
            for name in entry.files:
                path = self.release / entry.path / name
                files[f"k16/seed{number}/{name}"] = path.read_bytes()
        first = self.hub.put("lab/plain", files)
        moved = {
            f"k16/seed0/{n}": files[f"k16/seed1/{n}"] for n in local.entries[0].files
        }
        self.hub.put("lab/plain", moved)
        group_by = "/seed(?P<seed>[0-9]+)"
        opened = sr.open_release("lab/plain", group_by=group_by)
        pinned = sr.open_release(f"lab/plain@{first}", group_by=group_by)
        self.facts["groups of others"] = [
            opened.groups,
            [e.seed for e in opened.entries],
        ]
        old, new = (each.load("k16/seed0").W_dec for each in (pinned, opened))
        expected = [local.load(sae_id).W_dec for sae_id in local.ids[:2]]
        self.facts["pinned others"] = [
            torch.equal(old, expected[0]),
            torch.equal(new, expected[1]),
        ]
        self.run("evaluate others", "lab/plain", "--group-by", group_by)

    def opens_dictionaries(self) -> None:
        """Open SAEs of dictionary_learning: good ones, without threshold, with code."""
        import torch

        import saereg_plugin as sr
        from saereg_plugin.releases.opening import require_files

        states: dict[str, Any] = {
            "topk": _dictionary(),
            "batch": {**_dictionary(), "threshold": torch.tensor(0.5)},
            "unset": {**_dictionary(), "threshold": torch.tensor(-1.0)},
            "none": _dictionary(),
            "code": {**_dictionary(), "x": _Code(self.out / "PWNED")},
        }
        kinds = {"topk": "AutoEncoderTopK"}
        files: dict[str, bytes] = {}
        for name, state in states.items():
            buffer = io.BytesIO()
            torch.save(state, buffer)
            config = _config(kinds.get(name, "BatchTopKSAE"))
            files[f"{name}/ae.pt"] = buffer.getvalue()
            files[f"{name}/config.json"] = json.dumps(config).encode()
        commit = self.hub.put("lab/dictionaries", files)
        self.run("dictionaries", "lab/dictionaries")
        opened = sr.open_release("lab/dictionaries", allow_pickle=True)
        self.facts["dictionaries"] = {
            name: opened.load(name).cfg.architecture() for name in ("topk", "batch")
        }
        self.facts["threshold"] = opened.load("batch").threshold[:2].tolist()  # type: ignore[union-attr]
        for name in ("unset", "none", "code"):
            self.run(name, "lab/dictionaries", "--allow-pickle", "--sae-id", name)
        self.facts["code ran"] = (self.out / "PWNED").exists()
        self.hub.put("lab/dictionaries", {"topk/note": b""})
        # the cache still has the old commit as main, and SAELens asks the hub
        self.hub.faults["info"] = Fault(503)
        try:
            require_files(opened, ["topk"])
        except sr.InputError as error:
            self.facts["changed meanwhile"] = str(error)
        old = f"lab/dictionaries@{commit}"
        self.run("old dictionaries", old, "--allow-pickle", "--sae-id", "topk")


class _Code:
    """A value that creates a file when it is unpickled without restriction."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def _dictionary() -> dict[str, Any]:
    import torch

    return {
        "encoder.weight": torch.randn(32, 16),
        "encoder.bias": torch.zeros(32),
        "decoder.weight": torch.randn(16, 32),
        "b_dec": torch.ones(16),
        "k": torch.tensor(4),
    }


def _config(kind: str) -> dict[str, Any]:
    trainer = {
        "dict_class": kind,
        "layer": 3,
        "activation_dim": 16,
        "dict_size": 32,
        "k": 4,
        "lm_name": "EleutherAI/pythia-70m-deduped",
    }
    return {"trainer": trainer, "buffer": {"ctx_len": 128}}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
