"""Model cards of releases, for their folder and for the hub."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from saereg_plugin.releases.release import MANIFEST, Release
from saereg_plugin.sources.models import EMBEDDED, hub_name

CARD = "README.md"
MARK = (
    "<!-- saereg-plugin writes this card. `saereg-bench push` writes it anew for the hub; delete "
    "this line to push your own text. -->"
)
UNKNOWN_LICENSE = "unknown"
"""What the hub calls a licence that nobody has stated."""

_PUBLISHED = {"smollm2-135m-instruct": "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""Hub repositories of the embedded models."""
_OLD_FRONT_MATTER = (
    "library_name: saelens\ntags: [sparse-autoencoder, saereg-plugin]",
    "library_name: saelens\ntags:\n- sparse-autoencoder\n- saereg-plugin",
)
"""Front matter of cards without a mark, as 0.1.0 and later commits wrote it."""
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def folder_card(release: Release) -> str:
    """Return the model card of a release's folder: SAEs, how to load them, provenance."""
    return _card(release, _from_folder(release))


def is_old_card(release: Release, text: str) -> bool:
    """Return whether a text is the card that 0.1.0 wrote for this release, unchanged."""
    body = _body(release, _from_folder(release), shown=str)
    return text in {f"---\n{front}\n---\n\n{body}" for front in _OLD_FRONT_MATTER}


def _from_folder(release: Release) -> str:
    """Return how an SAE in the release's folder is loaded."""
    first = release.entries[0] if release.entries else None
    return f"""With SAELens alone, one SAE by its folder:

```python
from sae_lens import SAE

sae = SAE.load_from_disk("{first.path if first else "saes/<sae_id>"}")
```

or by its id, once saereg-plugin has told SAELens about this folder:

```python
import saereg_plugin as sr
from sae_lens import SAE

sr.register_release("path/to/{release.name}")
sae = SAE.from_pretrained("{release.name}", "{first.sae_id if first else "<sae_id>"}")
```
"""


def hub_card(
    release: Release,
    repository: str,
    *,
    revision: str | None = None,
    license: str = UNKNOWN_LICENSE,
    with_results: bool = False,
) -> str:
    """
    Return the model card of a release in a hub repository.

    Args:
        release: a release with at least one SAE.
        repository: ``owner/name``.
        revision: branch that the card is for; None is ``main``.
        license: the hub's identifier of the licence.
        with_results: whether ``results/`` is in the repository.
    """
    first = release.entries[0]
    name = repository if revision is None else f"{repository}@{revision}"
    load = f"""{_alone(repository, first.path, revision)}
With saereg-plugin, by the SAE's id and with the SHA-256 of every file checked:

```python
import saereg_plugin as sr
from sae_lens import SAE

sr.register_release("{name}")
sae = SAE.from_pretrained("{name}", "{first.sae_id}")
```

`saereg-bench run --sae-release {name}` evaluates them. `{repository}@<commit>`, with the id of a commit, always stands for
the same files.
"""
    if with_results:
        load += "\n`results/` has results in SAEBench's format, and their tables.\n"
    return _card(release, load, license=license)


def _alone(repository: str, path: str, revision: str | None) -> str:
    """Return how SAELens alone loads an SAE; it reads ``main``, another branch from a folder."""
    if revision is None:
        return f"""With SAELens alone:

```python
from sae_lens import SAE

sae = SAE.from_pretrained("{repository}", "{path}")
```
"""
    return f"""With SAELens alone:

```python
from huggingface_hub import snapshot_download
from sae_lens import SAE

folder = snapshot_download("{repository}", revision="{revision}", allow_patterns="{path}/*")
sae = SAE.load_from_disk(f"{{folder}}/{path}")
```
"""


def _card(release: Release, load: str, *, license: str | None = None) -> str:
    return f"""---
{_metadata(release, license).to_yaml()}
---

{MARK}

{_body(release, load)}"""


def _shown(name: object) -> str:
    """Return the name of a model or text; of a folder here only its last part."""
    path = Path(str(name))
    return path.name if path.is_absolute() else str(name)


def _body(
    release: Release, load: str, *, shown: Callable[[object], str] = _shown
) -> str:
    """Return the card below its front matter; ``shown`` writes names of model and text."""
    sweep: dict[str, Any] = dict(release.provenance.get("sweep", {}))
    versions: dict[str, str] = release.provenance.get("versions", {})
    rows = "\n".join(
        f"| `{entry.sae_id}` | {entry.group} | {entry.seed} | "
        f"{'' if entry.l0 is None else f'{entry.l0:.1f}'} |"
        for entry in release.entries
    )
    stopped = "".join(f"\n- {line}" for line in release.provenance.get("stopped", []))
    hooks = sweep.get("hook_name")
    points = ", ".join(f"`{hook}`" for hook in _listed(hooks))
    unit = "rows" if sweep.get("source") else "tokens"
    verb = "trained"
    if tuned := sweep.get("finetune"):
        verb = f"fine-tuned from release `{shown(tuned.get('release'))}` ({shown(tuned.get('loss'))})"
    return f"""# {release.name}

Sparse autoencoders for {points} of `{shown(release.model)}`, {verb} on
{release.provenance.get("tokens", 0):,} {unit} of `{shown(sweep.get("corpus"))}`. SAEs of one group differ only in
their seed.

| SAE | group | seed | L0 at the end of training |
|---|---|---|---|
{rows}
{f"{chr(10)}Stopped before the end:{stopped}{chr(10)}" if stopped else ""}
## Load

{load}
## Provenance

Trained {release.provenance.get("created")} by `{release.provenance.get("command")}` with
{", ".join(f"{name} {version}" for name, version in versions.items())}. `{MANIFEST}` has the whole
configuration and the SHA-256 of every file.
"""


def _listed(hooks: Any) -> list[Any]:
    """Return the hooks of a sweep, which may be one."""
    return list(hooks) if isinstance(hooks, list | tuple) else [hooks]


def _metadata(release: Release, license: str | None) -> ModelCardData:
    """Return the front matter; a model or text that is not on the hub is left out."""
    sweep: Mapping[str, Any] = release.provenance.get("sweep", {})
    corpus = sweep.get("corpus")
    return ModelCardData(
        library_name="saelens",
        base_model=base_model(release.model),
        datasets=[str(corpus)] if _is_repository(corpus) else None,
        license=license,
        tags=["sparse-autoencoder", "saelens", "saereg-plugin"],
    )


def base_model(name: str) -> str | None:
    """
    Return the hub repository of a language model, or None for a folder or an unknown name.

    >>> base_model("pythia-70m-deduped")
    'EleutherAI/pythia-70m-deduped'
    """
    if name in EMBEDDED:
        return _PUBLISHED[name]
    found = hub_name(name)
    # a folder that was loaded before has a path as its name
    if Path(found).is_absolute() or Path(name).exists():
        return None
    return found if found != name or _is_repository(name) else None


def _is_repository(name: object) -> bool:
    """Return whether a name is ``owner/name`` of the hub, and no folder here."""
    return (
        isinstance(name, str)
        and _REPOSITORY.fullmatch(name) is not None
        and not Path(name).exists()
    )
