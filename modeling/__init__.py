"""The models in transformers' form. Importing this package registers them with the Auto classes.

The other files of this folder are copied next to saved weights and run there alone, through `trust_remote_code=True`. They
import torch, transformers and each other only.
"""

try:
    import torch  # noqa: F401
    from transformers import AutoConfig, AutoImageProcessor, AutoModel
except ModuleNotFoundError as error:
    if error.name not in ("torch", "transformers"):
        raise
    raise ImportError(f'{error.name} is not installed: pip install "d2vpr-hf[models]" installs it.', name=error.name) from error

from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING

from .aggregation import Aggregator, AggregatorOutput
from .aggregators import AGGREGATORS
from .configuration_cricavpr import CricaVPRConfig
from .configuration_d2vpr import D2VPRConfig
from .configuration_vpr import VPRConfig
from .image_processing_d2vpr import D2VPRImageProcessor
from .modeling_cricavpr import CricaVPRModel, CricaVPRModelOutput
from .modeling_d2vpr import D2VPRModel, D2VPRModelOutput
from .modeling_vpr import VPRPreTrainedModel

MODELS: dict[type[VPRConfig], type[VPRPreTrainedModel]] = {D2VPRConfig: D2VPRModel, CricaVPRConfig: CricaVPRModel}

for _config, _model in MODELS.items():
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModel.register(_config, _model, exist_ok=True)
    AutoImageProcessor.register(_config, image_processor_classes={"pil": D2VPRImageProcessor}, exist_ok=True)
    # without an entry, `pipeline` takes the saved image processor for code of a video processor and asks whether to trust it
    VIDEO_PROCESSOR_MAPPING.register(_config, {}, exist_ok=True)  # type: ignore[arg-type] # a table by backend
    # save_pretrained then writes the code next to the weights
    _config.register_for_auto_class()
    _model.register_for_auto_class("AutoModel")
D2VPRImageProcessor.register_for_auto_class()

__all__ = [
    "AGGREGATORS",
    "MODELS",
    "Aggregator",
    "AggregatorOutput",
    "CricaVPRConfig",
    "CricaVPRModel",
    "CricaVPRModelOutput",
    "D2VPRConfig",
    "D2VPRImageProcessor",
    "D2VPRModel",
    "D2VPRModelOutput",
    "VPRConfig",
    "VPRPreTrainedModel",
]
