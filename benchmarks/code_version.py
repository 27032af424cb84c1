"""The version of the code that a record was made by."""

import subprocess
from pathlib import Path


def commit() -> str | None:
    """Return the short hash of the commit of the code that runs; `None` outside a repository or without git."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    except OSError:
        return None
    return result.stdout.strip() or None
