"""Averages of models: the numbers by hand, and models that do not fit together."""

import pytest
import torch

from d2vpr_hf.pretrained.weight_average import average_weights
from tests.conftest import save_folder, tiny_model


@pytest.fixture
def folders(tmp_path):
    """Two models of the same form, and one of another width."""
    models = {"a": tiny_model(seed=1), "b": tiny_model(seed=2), "wide": tiny_model(recovery_size=16)}
    return {name: save_folder(model, tmp_path / name) for name, model in models.items()}


def test_each_number_is_the_average(folders):
    a, b = (average_weights({folders[name]: 1.0}).state_dict() for name in "ab")
    average = average_weights({folders["a"]: 0.25, folders["b"]: 0.75}).state_dict()
    assert average.keys() == a.keys()
    for name, number in average.items():
        expected = 0.25 * a[name] + 0.75 * b[name] if number.is_floating_point() else b[name]
        torch.testing.assert_close(number, expected)


def test_shares_add_up_to_one(folders):
    for shares in ((0.5, 0.6), (-0.5, 1.5)):
        with pytest.raises(ValueError, match="add up to 1"):
            average_weights(dict(zip((folders["a"], folders["b"]), shares, strict=True)))
    with pytest.raises(ValueError, match="add up to 1"):
        average_weights({})


def test_models_of_other_shapes_are_refused(folders):
    with pytest.raises(ValueError, match=r"other names or shapes, .* first"):
        average_weights({folders["a"]: 0.5, folders["wide"]: 0.5})
