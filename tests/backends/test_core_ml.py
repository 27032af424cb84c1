"""Export to Core ML. Its programs run on Apple's systems only; here torch runs them, operation by operation."""

import pytest
import torch
from typer.testing import CliRunner

from d2vpr_hf import PlaceEncoder
from d2vpr_hf.backends.export_model import ExportOptions
from d2vpr_hf.backends.exported_model import ExportedModel
from d2vpr_hf.cli.commands import app
from d2vpr_hf.export import export
from d2vpr_hf.hub.graph_cards import make_graph_card
from tests.backends.mil_program import run_program

coremltools = pytest.importorskip("coremltools", reason='needs coremltools: pip install "d2vpr-hf[coreml]"')


@pytest.fixture(scope="module")
def exported(tiny_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("coreml") / "out"
    done = CliRunner().invoke(app, ["export", str(tiny_folder), str(out), "--format", "coreml"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return out, done.output


def test_the_package_has_one_image_and_one_descriptor(exported, tiny_folder):
    out, output = exported
    assert "not verified" in output
    description = coremltools.models.MLModel(str(out / "model.mlpackage"), skip_model_load=True).get_spec().description
    (given,), (result,) = description.input, description.output
    assert (given.name, list(given.type.multiArrayType.shape)) == ("pixel_values", [1, 3, 70, 70])
    width = PlaceEncoder(tiny_folder).config.descriptor_dim
    assert (result.name, list(result.type.multiArrayType.shape)) == ("descriptor", [1, width])
    assert "place" in description.metadata.shortDescription


def test_the_program_means_the_network(exported, tiny_folder):
    package = coremltools.models.MLModel(str(exported[0] / "model.mlpackage"), skip_model_load=True)
    program = coremltools.converters.mil.frontend.milproto.load.load(
        package.get_spec(), package.get_spec().specificationVersion, package.weights_dir
    )
    pixel_values = torch.randn(1, 3, 70, 70, generator=torch.Generator().manual_seed(0))
    descriptor = run_program(program, pixel_values=pixel_values)["descriptor"]
    with torch.no_grad():
        expected = PlaceEncoder(tiny_folder).model(pixel_values).pooler_output
    assert torch.cosine_similarity(descriptor, expected).item() > 0.999999


def test_its_card_does_not_offer_what_this_package_cannot_run(exported):
    card = str(make_graph_card(ExportedModel.open(exported[0])))
    assert "It was not run then." in card and "**Not trained yet**: adapters" in card
    assert "PlaceEncoder" not in card and not {"difference", "None"} & set(card.split())


def test_the_folder_cannot_run_here(exported, tiny_folder, tmp_path):
    with pytest.raises(ValueError, match="in the format coreml, which this package cannot run"):
        _ = PlaceEncoder(exported[0]).backend
    with pytest.raises(ValueError, match="Recall cannot be measured here"):
        export(tiny_folder, tmp_path / "out", ExportOptions("coreml"), labelled=(tmp_path, tmp_path))
