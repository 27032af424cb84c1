"""The models, as transformers knows them. Importing this package registers them with the Auto classes.

The other files of this folder are copied beside saved weights and run there alone, through `trust_remote_code=True`. They
import torch, transformers and each other only.
"""

from transformers import AutoConfig, AutoImageProcessor, AutoModel

from .configuration_d2vpr import D2VPRConfig
from .image_processing_d2vpr import D2VPRImageProcessor
from .modeling_d2vpr import D2VPRModel, D2VPRModelOutput, D2VPRPreTrainedModel

AutoConfig.register(D2VPRConfig.model_type, D2VPRConfig, exist_ok=True)
AutoModel.register(D2VPRConfig, D2VPRModel, exist_ok=True)
AutoImageProcessor.register(D2VPRConfig, image_processor_classes={"pil": D2VPRImageProcessor}, exist_ok=True)

# save_pretrained then writes the code beside the weights
D2VPRConfig.register_for_auto_class()
D2VPRModel.register_for_auto_class("AutoModel")
D2VPRImageProcessor.register_for_auto_class()

__all__ = ["D2VPRConfig", "D2VPRImageProcessor", "D2VPRModel", "D2VPRModelOutput", "D2VPRPreTrainedModel"]
