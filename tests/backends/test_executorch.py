"""Programs of ExecuTorch, by XNNPACK and by portable kernels, give the model's descriptors in its runtime."""

import numpy as np
import pytest

from d2vpr_hf import PlaceEncoder
from d2vpr_hf.backends.export_model import ExportOptions, export_model
from d2vpr_hf.backends.exported_model import ExportedModel
from d2vpr_hf.backends.runtime import Runtime
from d2vpr_hf.export import export
from d2vpr_hf.modeling import D2VPRImageProcessor
from tests.conftest import tiny_cricavpr
from tests.photos import draw

pytest.importorskip("executorch.runtime", reason='needs executorch: pip install "d2vpr-hf[executorch]"')


@pytest.mark.parametrize("name", ["executorch", "executorch-portable"])
def test_a_program_gives_the_descriptors_of_the_model(tiny_folder, tmp_path, name):
    """Any number of photos, though a program has one."""
    exported = export(tiny_folder, tmp_path / "out", ExportOptions(name)).model
    record = exported.info["verification"]
    assert record["runtime"] == "executorch fp32" and record["largest"] < 1e-4
    encoder, photos = PlaceEncoder(exported.folder), [draw(i) for i in range(3)]
    assert encoder.runtime == Runtime("executorch", "fp32")
    expected = PlaceEncoder(tiny_folder).encode(photos).descriptors
    np.testing.assert_allclose(encoder.encode(photos).descriptors, expected, atol=1e-5)
    is_delegated = b"XnnpackBackend" in (exported.folder / "model.pte").read_bytes()
    assert is_delegated == (name == "executorch")
    with pytest.raises(ValueError, match="holds a graph for executorch; the backend onnxruntime cannot run it"):
        exported.open_backend("onnxruntime", None)


def test_another_model_is_exported(tmp_path):
    """CricaVPR pools by another aggregator."""
    processor = D2VPRImageProcessor(size={"height": 70, "width": 42})
    model = tiny_cricavpr(use_cross_image_encoder=False)
    exported = export_model(model, processor, tmp_path / "out", ExportOptions("executorch"), info={"fingerprint": ""})
    assert ExportedModel.open(exported.folder).info["verification"]["largest"] < 1e-4


def test_a_model_converted_for_one_process_gives_its_descriptors(tiny_folder):
    descriptors = PlaceEncoder(tiny_folder, backend="executorch").encode([draw(0)]).descriptors
    np.testing.assert_allclose(descriptors, PlaceEncoder(tiny_folder).encode([draw(0)]).descriptors, atol=1e-5)
