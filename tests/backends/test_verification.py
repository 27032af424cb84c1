"""Graphs are compared with their models, when they are exported and again on other processors."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from d2vpr_hf import PlaceEncoder
from d2vpr_hf.backends import verification
from d2vpr_hf.backends.cpu_kind import cpu_kind
from d2vpr_hf.backends.export_model import ExportOptions
from d2vpr_hf.backends.exported_model import ExportedModel, info_text
from d2vpr_hf.backends.verification import load_references
from tests.command_line import run
from tests.conftest import save_folder, tiny_model


@pytest.fixture
def copied(quantised, tmp_path):
    """A copy of the int8 graph, to change."""
    return shutil.copytree(quantised[0], tmp_path / "copied")


def change_record(folder, **changes):
    path = folder / "export.json"
    info = json.loads(path.read_text())
    info["verification"] |= changes
    path.write_text(info_text(info))


def test_an_export_records_how_it_was_verified(quantised):
    record = ExportedModel.open(quantised[0]).info["verification"]
    assert (record["runtime"], record["cpu"], record["images"]) == ("onnxruntime int8", cpu_kind(), 6)
    assert 0 < record["median"] <= record["quantile"] <= record["largest"] and record["max_difference"] == 0.15


def test_references_give_the_model_s_descriptors(quantised, tiny_folder):
    """Images are stored in float16: the descriptors must be those of the rounded images."""
    backend = PlaceEncoder(tiny_folder, device="cpu").backend
    references = load_references(quantised[0] / "references.npz")
    assert len(references) == 4
    for reference in references:
        np.testing.assert_allclose(backend.encode(reference.pixel_values), reference.descriptors, atol=1e-6)


def test_a_graph_is_not_checked_again_where_it_was_verified(copied):
    (copied / "references.npz").unlink()
    ExportedModel.open(copied).open_backend("onnxruntime", None)
    with pytest.raises(FileNotFoundError, match=r"references\.npz"):
        ExportedModel.open(copied).open_backend("openvino", None)


def test_a_graph_is_checked_again_on_another_processor(copied, caplog):
    """An int8 graph that was verified with VNNI was three times less exact without, and nothing noticed."""
    change_record(copied, cpu="another")
    ExportedModel.open(copied).open_backend("auto", None)
    assert not caplog.records
    change_record(copied, cpu="another", median=1e-6)
    ExportedModel.open(copied).open_backend("auto", None)
    assert "verified with onnxruntime int8 on another: a median relative difference of 1e-06" in caplog.text
    assert "but much less exact. Export the model again on a processor of this kind, or in fp32" in caplog.text
    change_record(copied, cpu="another", max_difference=1e-3)
    with pytest.raises(ValueError, match=r"on another: .* With onnxruntime int8 on this processor .* more than the 0\.001"):
        ExportedModel.open(copied).open_backend("auto", None)


def test_an_older_export_opens_with_a_warning(copied, caplog):
    """Folders without the record were written before, and their weights may saturate."""
    path = copied / "export.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps({key: info[key] for key in info if key not in ("verification", "sha256", "checksum")}))
    (copied / "references.npz").unlink()
    ExportedModel.open(copied).open_backend("auto", None)
    assert "without VNNI its descriptors may differ three times as much" in caplog.text


def test_the_kind_of_processor_changes_with_a_limit_on_kernels(monkeypatch):
    """A limit changes OpenVINO's kernels as another processor does."""
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    kind = cpu_kind()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert cpu_kind() == f"{kind} ONEDNN_MAX_CPU_ISA=AVX2"


def test_int8_is_the_same_without_vnni(quantised, tmp_path):
    """OpenVINO's kernels for AVX2 alone saturated. Whatever processor this is, it must agree with its own AVX2 kernels."""
    references = load_references(quantised[0] / "references.npz")
    images = np.concatenate([reference.pixel_values for reference in references])
    np.save(tmp_path / "images.npy", images)
    code = (
        "import sys, numpy, openvino; graph, images, out = sys.argv[1:]; "
        "network = openvino.Core().compile_model(graph, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'}); "
        "numpy.save(out, network([numpy.load(images)])[0])"
    )
    arguments = [quantised[0] / "model.onnx", tmp_path / "images.npy", tmp_path / "descriptors.npy"]
    limited = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=True, env=limited)
    here = ExportedModel.open(quantised[0]).open_backend("openvino", None).encode(references[0].pixel_values)
    there = np.load(tmp_path / "descriptors.npy")[:1]
    # a value on the border between two steps of the activations may be rounded to the other one: one step of 255
    assert np.linalg.norm(here - there) / np.linalg.norm(here) < 0.02


def test_an_export_beyond_max_difference_is_refused(world, tmp_path):
    """The refusal names the figures, and advises what can help: more photos cannot, 64 are used at most."""
    folder = save_folder(tiny_model(num_hidden_layers=1), tmp_path / "model")
    command = ("export", folder, tmp_path / "out", "--precision", "int8", "--photos", world / "queries")
    status, _, error = run(*command, "--max-difference", "1e-6")
    assert status != 0 and "more than" in error and "of a descriptor's norm at the 0.9 quantile of 6 images" in error
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="max_difference must be positive, got 0"):
        ExportOptions(max_difference=0)


def test_nine_of_ten_images_decide():
    """One odd photo among sixteen must not refuse an export; a descriptor that is not finite always counts as different."""
    descriptors = np.eye(20, dtype=np.float32)
    changed = descriptors.copy()
    changed[0] *= 3
    changed[1] *= np.nan

    class Fake:
        name, precision = "onnxruntime", "int8"

        def encode(self, pixel_values):
            return changed

    made = verification.verify_graph(Fake(), [verification.Reference(None, descriptors)], 0.15)
    assert made.median == 0 and made.quantile == 2 and made.largest > 1e300
    changed[0] = descriptors[0]
    assert verification.verify_graph(Fake(), [verification.Reference(None, descriptors)], 0.15).quantile == 0
