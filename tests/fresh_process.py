"""Processes that import everything anew, and what they imported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HEAVY = frozenset(
    ("torch", "sae_lens", "transformer_lens", "transformers", "wandb", "datasets")
)
"""Packages that take seconds to import, and that readers of results do not need."""

_MARK = "IMPORTED"
_COMMAND = """
import sys
from eval_recipes.cli import main
sys.argv = ["saereg-bench", *sys.argv[1:]]
main()
"""


def run_code(
    code: str, *arguments: str, cwd: Path | None = None
) -> tuple[str, set[str]]:
    """Run code; return its output and the modules that it had imported at its end."""
    watched = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print('{_MARK}', *sys.modules))\n{code}"
    )
    done = subprocess.run(
        [sys.executable, "-c", watched, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    text, _, modules = done.stdout.partition(_MARK)
    return text, set(modules.split())


def run_command(arguments: Sequence[str]) -> tuple[str, set[str]]:
    """Run ``saereg-bench``; return its output and the modules that it had imported."""
    return run_code(_COMMAND, *arguments)
