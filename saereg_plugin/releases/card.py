"""The readable page beside a release's manifest."""

from __future__ import annotations

from typing import Any

from saereg_plugin.releases.release import MANIFEST, Release


def model_card(release: Release) -> str:
    """Return a Markdown model card with what was trained, how, and how to load it."""
    sweep: dict[str, Any] = dict(release.provenance.get("sweep", {}))
    versions: dict[str, str] = release.provenance.get("versions", {})
    first = release.entries[0].sae_id if release.entries else "<sae_id>"
    rows = "\n".join(
        f"| `{entry.sae_id}` | {entry.group} | {entry.seed} | "
        f"{'' if entry.l0 is None else f'{entry.l0:.1f}'} |"
        for entry in release.entries
    )
    stopped = "".join(f"\n- {line}" for line in release.provenance.get("stopped", []))
    return f"""---
library_name: saelens
tags: [sparse-autoencoder, saereg-plugin]
---

# {release.name}

Sparse autoencoders for `{sweep.get("hook_name")}` of `{release.model}`, trained on
{release.provenance.get("tokens"):,} tokens of `{sweep.get("corpus")}`. SAEs of one group differ only in
their seed.

| SAE | group | seed | L0 at the end of training |
|---|---|---|---|
{rows}
{f"{chr(10)}Stopped before the end:{stopped}{chr(10)}" if stopped else ""}
## Load

With SAELens alone, one SAE by its folder:

```python
from sae_lens import SAE

sae = SAE.load_from_disk("{release.entries[0].path if release.entries else "saes/<sae_id>"}")
```

or by its id, once saereg-plugin has told SAELens about this folder:

```python
import saereg_plugin as sr
from sae_lens import SAE

sr.register_release("path/to/{release.name}")
sae = SAE.from_pretrained("{release.name}", "{first}")
```

## Provenance

Trained {release.provenance.get("created")} by `{release.provenance.get("command")}` with
{", ".join(f"{name} {version}" for name, version in versions.items())}. `{MANIFEST}` has the whole
configuration and the SHA-256 of every file.
"""
