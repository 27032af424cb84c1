"""An aggregator that is added to the table works everywhere: training, saving, loading, indexing, searching."""

import json
import math
from pathlib import Path

import pytest
import torch

from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.explanation import explain_match
from d2vpr_hf.modeling import AGGREGATORS, Aggregator, AggregatorOutput, D2VPRConfig, D2VPRModel
from d2vpr_hf.pretrained.loading import load_image_processor, load_model
from d2vpr_hf.retrieval import index_photos, search_photos
from d2vpr_hf.training.finetune import finetune
from d2vpr_hf.training.options import FinetuneOptions
from tests.conftest import save_folder, tiny_model
from tests.photos import save_row
from tests.training.places import write_places


class MeanAggregator(Aggregator):
    """Average the patches under each region's box."""

    def __init__(self, config):
        super().__init__(config)
        self.scale = torch.nn.Parameter(torch.ones(config.recovery_size))

    def forward(self, tokens, grid_size):
        patches = tokens[:, 1:].transpose(1, 2).unflatten(2, grid_size)  # (B, N, D) -> (B, D, H, W)
        features = [tokens[:, 0]]
        for region in self.config.regions:
            left, top, right, bottom = region["box"]
            rows = slice(math.floor(top * grid_size[0]), math.ceil(bottom * grid_size[0]))
            columns = slice(math.floor(left * grid_size[1]), math.ceil(right * grid_size[1]))
            features.append(patches[:, :, rows, columns].mean(dim=(2, 3)))
        return AggregatorOutput(torch.stack(features, dim=1) * self.scale)


@pytest.fixture
def mean_aggregator(monkeypatch):
    monkeypatch.setitem(AGGREGATORS, "mean", MeanAggregator)


def test_an_added_aggregator_is_trained_saved_loaded_and_indexed(mean_aggregator, tmp_path):
    """Code that takes every student's aggregator for TDDA fails on the way, or leaves the weights of another untrained."""
    student = tiny_model(aggregator="mean")
    options = FinetuneOptions(
        photos=str(write_places(tmp_path / "gsv")),
        model=str(save_folder(student, tmp_path / "student")),
        out=str(tmp_path / "run"),
        image_size=[42, 42],
        places_per_batch=4,
        num_workers=0,
        max_steps=1,
        learning_rate=1e-2,
        schedule="constant",
        held_out_places=4,
    )
    finetune(options)
    trained = load_model(tmp_path / "run" / "last")
    assert isinstance(trained.aggregator, MeanAggregator)
    assert not torch.equal(trained.aggregator.scale, student.aggregator.scale)

    photos = save_row(tmp_path / "photos")
    encoder = PlaceEncoder(tmp_path / "run" / "last")
    index, report = index_photos(photos, tmp_path / "index", encoder)
    assert (len(index), report.added) == (9, 9)
    results = search_photos(index, [photos], encoder, top_k=1)
    assert [Path(result.matches[0].place.path).name for result in results] == [result.query.name for result in results]


def test_prepared_descriptors_are_the_model_s(mean_aggregator, tmp_path):
    """The encoder runs a prepared copy of the model, whose aggregator must be the plain one."""
    folder = save_folder(tiny_model(aggregator="mean"), tmp_path / "model")
    photo = next(save_row(tmp_path / "photos").iterdir())
    pixels = load_image_processor(folder)(str(photo), return_tensors="pt")
    with torch.no_grad():
        output = load_model(folder)(**pixels)
    assert output.sampling_positions is None and output.region_boxes is None
    descriptors = PlaceEncoder(folder).encode([photo]).descriptors
    torch.testing.assert_close(torch.as_tensor(descriptors), output.pooler_output, rtol=0, atol=1e-5)


def test_a_match_without_samples_cannot_be_explained(mean_aggregator, tmp_path):
    """The picture of an explanation is drawn from sampling positions, which this aggregator does not have."""
    encoder = PlaceEncoder(save_folder(tiny_model(aggregator="mean"), tmp_path / "model"))
    photo = next(save_row(tmp_path / "photos").iterdir())
    with pytest.raises(ValueError, match=r"sampling points.*'mean'"):
        explain_match(encoder, photo, photo)


def test_the_default_aggregator_is_not_written(tmp_path):
    """A new key in config.json would be refused by the versions before it, and would change fingerprints of old models."""
    D2VPRConfig().save_pretrained(tmp_path)
    assert "aggregator" not in json.loads((tmp_path / "config.json").read_text())
    assert D2VPRConfig.from_pretrained(tmp_path).aggregator == "deformable"


def test_another_aggregator_is_written(mean_aggregator, tmp_path):
    D2VPRConfig(aggregator="mean").save_pretrained(tmp_path)
    assert D2VPRConfig.from_pretrained(tmp_path).aggregator == "mean"


def test_the_number_of_features_is_the_aggregator_s(monkeypatch):
    """A descriptor's width is read from the configuration, before there is a model."""

    class GlobalAggregator(Aggregator):
        @staticmethod
        def num_features(config):
            return 1

        def forward(self, tokens, grid_size):
            return AggregatorOutput(tokens[:, :1])

    monkeypatch.setitem(AGGREGATORS, "global", GlobalAggregator)
    model = tiny_model(aggregator="global")
    with torch.no_grad():
        assert model(torch.randn(2, 3, 70, 70)).pooler_output.shape == (2, model.config.descriptor_dim) == (2, 48)


@pytest.mark.parametrize("word", ["mean", None, ["deformable"]])
def test_a_word_outside_the_table_is_refused(word):
    with pytest.raises(ValueError, match="aggregator"):
        D2VPRModel(D2VPRConfig(aggregator=word))
