"""Help texts: groups of commands, short descriptions, closed choices, and the modules that help does not load."""

import re
import subprocess
import sys
from typing import get_args

import pytest
from typer.testing import CliRunner

from d2vpr_hf.backends.formats.export_format import InputKind
from d2vpr_hf.backends.formats.registry import FORMATS
from d2vpr_hf.backends.protocol import PRECISIONS
from d2vpr_hf.backends.protocol import Precision as BackendPrecision
from d2vpr_hf.cli import app, choices
from d2vpr_hf.convert.sources import Target
from d2vpr_hf.gridtown.simulate import Layout
from d2vpr_hf.gridtown.tiers import TierName
from d2vpr_hf.index.derived_store import STORES
from d2vpr_hf.model_info.known_models import Kind
from d2vpr_hf.model_info.model_options import Pool
from d2vpr_hf.readers.read_options import PositionSource
from d2vpr_hf.retrieval.answer_formats import FORMATS as ANSWER_FORMATS
from d2vpr_hf.retrieval.export_descriptors import FORMATS as DESCRIPTOR_FORMATS
from d2vpr_hf.retrieval.image_pairs import FORMATS as PAIR_FORMATS
from d2vpr_hf.stores import COMPRESSIONS
from d2vpr_hf.stores.descriptors import DTYPES

GROUPS = {
    "Make an index": ["index", "add", "remove", "watch", "embed", "merge"],
    "Inspect and maintain an index": ["info", "check-map", "verify", "repair", "compact"],
    "Find where photos were taken": ["search", "localize", "calibrate"],
    "Exchange with other programs": ["pairs", "export-descriptors", "export-index"],
    "Evaluate": ["evaluate", "compare"],
    "Choose and make models": ["models", "convert", "fit-projection", "export", "card-onnx", "import-hub"],
    "Make photos and places": ["simulate", "places"],
    "Try it and show it": ["demo", "space", "serve", "doctor"],
    "Share it on the Hugging Face Hub": ["push", "push-space"],
}
COMMANDS = [command for commands in GROUPS.values() for command in commands]
HEAVY = ("torch", "transformers", "datasets", "faiss", "fastapi", "uvicorn")


def help_text(*arguments):
    result = CliRunner().invoke(app, [*arguments, "--help"], env={"COLUMNS": "80"})
    assert result.exit_code == 0
    return result.output


def test_help_lists_the_commands_in_groups():
    sections = re.findall(r"^(\S.*):\n((?:  .*\n?)+)", help_text(), flags=re.MULTILINE)
    listed = {title: re.findall(r"^  ([a-z-]+) ", rows, flags=re.MULTILINE) for title, rows in sections}
    assert list(listed.items())[1:] == list(GROUPS.items())


def test_descriptions_of_commands_fit_their_column():
    """At 80 columns a longer sentence would be cut and end in three dots, or take a second line."""
    text = help_text()
    assert "..." not in text.partition("Options:")[2]
    rows = [line for line in text.splitlines() if re.match(rf"  ({'|'.join(COMMANDS)}) ", line)]
    assert len(rows) == len(COMMANDS) and all(row.endswith(".") for row in rows)


EXPORT_FORMATS = ["onnx", "openvino", "transformers-js", "coreml", "executorch", "executorch-portable"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_the_terminal(command):
    assert max(map(len, help_text(command).splitlines())) <= 80


@pytest.mark.parametrize(
    ("words", "library"),
    [
        (choices.AnswerFormat, ["table", *ANSWER_FORMATS]),
        (choices.Backend, [*PRECISIONS, "auto"]),
        (choices.Compression, COMPRESSIONS),
        (choices.DescriptorFormat, DESCRIPTOR_FORMATS),
        (choices.Dtype, DTYPES),
        (choices.ExportFormat, FORMATS),
        (choices.ExportInput, get_args(InputKind)),
        (choices.ExportPrecision, {word for entry in FORMATS.values() for word in entry.precisions}),
        (choices.KnownKind, get_args(Kind)),
        (choices.Layout, Layout),
        (choices.ModelKind, Target),
        (choices.PairFormat, PAIR_FORMATS),
        (choices.Pool, get_args(Pool)),
        (choices.PositionSource, get_args(PositionSource)),
        (choices.Precision, get_args(BackendPrecision)),
        (choices.Store, STORES),
        (choices.Tier, TierName),
    ],
)
def test_choices_are_those_of_the_library(words, library):
    """A store or precision that is added to the library must not stay unknown to the command line."""
    assert set(get_args(words)) == {str(word) for word in library}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["index", "p", "--out", "i", "--compression", "zip"], ["none", "half", "int8", "bits"]),
        (["index", "p", "--out", "i", "--store", "chroma"], ["faiss", "milvus", "pgvector"]),
        (["index", "p", "--out", "i", "--dtype", "int8"], ["float16", "float32"]),
        (["index", "p", "--out", "i", "--positions", "gps"], ["csv", "names", "exif"]),
        (
            ["search", "i", "q", "--backend", "tvm"],
            ["torch", "torch-compiled", "onnxruntime", "openvino", "executorch", "auto"],
        ),
        (["search", "i", "q", "--pool", "max"], ["cls", "mean", "gem", "cls+gem", "pooler", "regions"]),
        (["search", "i", "q", "--backend-precision", "fp8"], ["fp32", "bf16", "fp16", "int8"]),
        (["search", "i", "q", "--format", "kmz"], ["table", "json", "jsonl", "geojson", "csv", "gpx", "kml"]),
        (["pairs", "i", "--all", "--out", "o", "--format", "opensfm"], ["hloc", "colmap"]),
        (["export", "m", "o", "--format", "tflite"], EXPORT_FORMATS),
        (["export", "m", "o", "--precision", "fp16"], ["fp32", "bf16", "int8"]),
        (["export", "m", "o", "--input", "video"], ["fixed", "any-size", "photos"]),
        (["simulate", "o", "--places", "1", "--seed", "1", "--tier", "hard"], ["easy", "standard", "all"]),
        (["simulate", "o", "--places", "1", "--seed", "1", "--layout", "flat"], ["at-names", "gsv-cities"]),
        (["models", "--kind", "timm"], ["own", "transformers", "onnx", "torch-hub"]),
        (["convert", "s", "o", "--as", "teacher"], ["student", "cricavpr"]),
        (["convert", "s", "o", "--to", "onnx"], ["published"]),
    ],
)
def test_words_that_are_not_choices_are_refused(arguments, words):
    """The help lists the choices, and so does the error."""
    result = CliRunner().invoke(app, arguments)
    option, wrong = arguments[-2:]
    listed = ", ".join(f"'{word}'" for word in words)
    assert result.exit_code == 2 and f"Invalid value for '{option}'" in result.output
    assert wrong in result.output and listed in result.output
    assert f"{option} <{'|'.join(words)}>" in " ".join(help_text(arguments[0]).split())


def test_help_loads_no_heavy_module():
    """Help must answer at once; an import of torch at the top of one module of the command line costs seconds."""
    command_lines = [["--help"], *([command, "--help"] for command in COMMANDS)]
    assert loaded_modules(command_lines) == []


def loaded_modules(command_lines):
    """Run the program in a new process and return the heavy modules that it loaded."""
    code = f"""
import sys
from d2vpr_hf.cli import app
for arguments in {command_lines!r}:
    try:
        app(arguments)
    except SystemExit as exit:
        assert not exit.code
sys.stderr.write(" ".join(name for name in {HEAVY!r} if name in sys.modules))
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr.split()
