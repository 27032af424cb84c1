"""Parts for tests of `benchmarks.gpu_report`: one that fails, and one that does not end. They load no torch."""

import os
import time
from pathlib import Path


def measure(setting) -> None:
    """Note a figure, then behave as the environment variable says."""
    setting.note("first", {"value": 1})
    if os.environ["PART_BEHAVIOUR"] == "fails":
        raise ValueError("no such kernel")
    Path(os.environ["PART_IS_RUNNING"]).touch()
    time.sleep(3600)
