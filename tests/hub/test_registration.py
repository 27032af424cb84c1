"""The Auto classes know the models after `import d2vpr_hf.modeling`; without it, transformers asks for trust in saved code."""

import subprocess
import sys

import pytest

from tests.warm_python import warm_libraries

USE = """
import numpy
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModel, pipeline

assert AutoConfig.from_pretrained(folder).model_type == "d2vpr"
assert type(AutoModel.from_pretrained(folder)).__module__ == "d2vpr_hf.modeling.modeling_d2vpr"
assert type(AutoImageProcessor.from_pretrained(folder)).__name__ == "D2VPRImageProcessor"
photo = Image.fromarray(numpy.zeros((50, 60, 3), numpy.uint8))
print(numpy.shape(pipeline("image-feature-extraction", model=folder)(photo, pool=True)))
"""


def run(folder, code):
    """Run a program with an empty input, which a prompt would read; transformers is imported before it."""
    return warm_libraries().run(f"folder = {str(folder)!r}\n{code}")


def run_new(folder, code):
    """Run a program with an empty input in a new process."""
    command = [sys.executable, "-c", f"folder = {str(folder)!r}\n{code}"]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("first", "run"),
    [
        ("import d2vpr_hf.modeling", run_new),
        ("from d2vpr_hf import D2VPRModel", run),
        ("from d2vpr_hf import load_model", run),
    ],
)
def test_the_auto_classes_know_the_models_without_a_prompt(tiny_folder, first, run):
    done = run(tiny_folder, f"{first}\n{USE}")
    assert done.returncode == 0 and done.stdout.startswith("(1, "), done.stderr
    assert "Do you wish to run the custom code" not in done.stdout + done.stderr


def test_import_of_the_package_alone_is_not_enough(tiny_folder):
    """The import loads neither torch nor transformers, and so no model; the README says so."""
    done = run(tiny_folder, f"import d2vpr_hf, sys\nassert 'd2vpr_hf.modeling' not in sys.modules\n{USE}")
    assert done.returncode == 1 and "trust_remote_code=True" in done.stderr
