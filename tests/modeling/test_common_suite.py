"""transformers' own common model tests, run on each model: they catch whatever breaks its loading, saving, half precision,
attention implementations, gradient checkpointing, hidden states or initialisation."""

import os
import types
import unittest

import pytest
import torch
from torch import nn

from d2vpr_hf.modeling import CricaVPRConfig, CricaVPRModel, D2VPRConfig, D2VPRModel, VPRConfig
from tests import transformers_suite
from tests.conftest import TINY, TINY_CRICAVPR

if not transformers_suite.FOLDER.is_dir() and not os.environ.get("CI"):
    pytest.skip("fetch transformers' tests with `python tests/transformers_suite.py`", allow_module_level=True)

common = transformers_suite.load_suite()


def trainable(model_class: type) -> type:
    """Add a loss to a model for the suite's training tests, which check that every weight gets a gradient."""

    class Trainable(model_class):
        def forward(self, pixel_values: torch.Tensor, **kwargs):
            descriptors = super().forward(pixel_values).pooler_output
            target = nn.functional.normalize(torch.linspace(-1, 1, descriptors.shape[1]), dim=0)
            return types.SimpleNamespace(loss=(descriptors - target).square().sum())

    return Trainable


class ModelTester:
    """A small configuration and inputs for it, as the common tests require."""

    is_training = True
    batch_size = 3
    image_size = 56
    seq_length = 1 + (56 // 14) ** 2
    num_hidden_layers = 2
    num_attention_heads = 4

    def __init__(self, parent: unittest.TestCase, config: VPRConfig) -> None:
        self.parent = parent
        self.config = config
        self.hidden_size = config.hidden_size

    def get_config(self) -> VPRConfig:
        return type(self.config)(**self.config.to_dict())

    def prepare_config_and_inputs_for_common(self) -> tuple[VPRConfig, dict[str, torch.Tensor]]:
        images = torch.randn(self.batch_size, 3, self.image_size, self.image_size)
        return self.get_config(), {"pixel_values": images}


class StudentCommonTest(common.ModelTesterMixin, unittest.TestCase):
    model_class = D2VPRModel
    all_model_classes = (D2VPRModel,)
    test_resize_embeddings = False
    config = D2VPRConfig(**(TINY | {"num_attention_heads": 4, "image_size": 56}))

    def setUp(self) -> None:
        self.model_tester = ModelTester(self, self.config)

    def test_model_get_set_embeddings(self) -> None:
        """As transformers' vision models override it: pixels are embedded by a convolution, not by a table."""
        model = self.model_class(self.model_tester.get_config())
        self.assertIsInstance(model.get_input_embeddings(), nn.Conv2d)
        replacement = nn.Conv2d(3, self.config.hidden_size, 14, 14)
        model.set_input_embeddings(replacement)
        self.assertIs(model.get_input_embeddings(), replacement)
        self.assertIsNone(model.get_output_embeddings())

    def test_training(self) -> None:
        """The suite's own test asserts nothing; here every weight must get a gradient, and a step along it must help."""
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        model = trainable(self.model_class)(config).train()

        def loss() -> torch.Tensor:
            torch.manual_seed(0)  # the same units are dropped
            return model(**inputs).loss

        before = loss()
        before.backward()
        for name, weights in model.named_parameters():
            self.assertTrue(weights.grad is not None and torch.isfinite(weights.grad).all(), name)
        torch.optim.SGD(model.parameters(), lr=1e-4).step()
        self.assertLess(loss().item(), before.item())

    def check_training_gradient_checkpointing(self, gradient_checkpointing_kwargs=None) -> None:
        self.all_model_classes = (trainable(self.model_class),)
        super().check_training_gradient_checkpointing(gradient_checkpointing_kwargs)


class CrossImageStudentCommonTest(StudentCommonTest):
    config = D2VPRConfig(**(TINY | {"num_attention_heads": 4, "image_size": 56, "use_cross_image_encoder": True}))

    @unittest.skip("with the encoder a descriptor is meant to depend on its batch; StudentCommonTest checks it without")
    def test_batching_equivalence(self) -> None: ...


class CricaVPRCommonTest(StudentCommonTest):
    model_class = CricaVPRModel
    all_model_classes = (CricaVPRModel,)
    config = CricaVPRConfig(**(TINY_CRICAVPR | {"num_attention_heads": 4, "image_size": 56}))

    def test_batching_equivalence(self) -> None:
        """Without the encoder, with which a descriptor is meant to depend on its batch."""
        self.model_tester.config.use_cross_image_encoder = False
        self.addCleanup(setattr, self.model_tester.config, "use_cross_image_encoder", True)
        super().test_batching_equivalence()
