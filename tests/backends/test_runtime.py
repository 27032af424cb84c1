"""Runtimes: a value with one written form, which index manifests store."""

import subprocess
import sys

import pytest

from d2vpr_hf.backends.runtime import Runtime


def test_the_stored_form_is_read_back():
    """Manifests that are on disk hold this form; another one would make every index look mixed."""
    assert str(Runtime("torch-compiled", "bf16")) == "torch-compiled bf16"
    assert Runtime.parse("torch-compiled bf16") == Runtime("torch-compiled", "bf16")


@pytest.mark.parametrize("text", ["", "torch", "torch fp32 fast"])
def test_a_text_that_is_not_a_runtime_is_refused(text):
    with pytest.raises(ValueError, match=f"such as 'torch fp32'; got {text!r}"):
        Runtime.parse(text)


def test_a_runtime_needs_no_torch():
    """The command line reads it from an index before it knows whether it needs a network."""
    code = "import sys, d2vpr_hf.backends.runtime; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
