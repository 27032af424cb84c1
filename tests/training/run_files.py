"""Read the files of a run."""

import json
from pathlib import Path
from typing import Any


def read_metrics(out: Path) -> list[dict[str, Any]]:
    """Read the lines of a run's log of numbers."""
    return [json.loads(line) for line in (out / "run" / "metrics.jsonl").read_text().splitlines()]
