"""The state of Accelerate in tests of training."""

import pytest
from accelerate.state import AcceleratorState


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """Reset Accelerate, so that each run finds it in the state in which a process starts."""
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()
