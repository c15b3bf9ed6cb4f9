"""Check of pip's report: an installation adds packages and changes none."""

import json
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def changes(report):
    """Return "name old -> new" of every package that is installed in another version."""
    found = []
    for item in report["install"]:
        name, new = item["metadata"]["name"], item["metadata"]["version"]
        try:
            found.append(f"{name} {version(name)} -> {new}")
        except PackageNotFoundError:
            sys.stdout.write(f"adds {name} {new}\n")
    return found


if __name__ == "__main__":
    changed = changes(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    if changed:
        sys.exit(
            f"The base install changes {', '.join(changed)}; it must only add packages."
        )
