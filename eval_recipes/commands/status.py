"""What the commands exit with."""

from __future__ import annotations

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130
