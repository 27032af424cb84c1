"""Facts about models of this package, and the values by which a graph of one runs as an encoder."""

from dataclasses import replace

from transformers.image_utils import PILImageResampling

from d2vpr_hf.model_info.embedded_model import EMBEDDED_MODEL, EMBEDDED_NAME
from d2vpr_hf.model_info.encoder_entry import EncoderEntry
from d2vpr_hf.model_info.known_models import EMBEDDED
from d2vpr_hf.model_info.model_facts import ModelFacts
from d2vpr_hf.model_info.preprocessing import Preprocessing
from d2vpr_hf.modeling import CricaVPRConfig, D2VPRConfig, D2VPRImageProcessor, VPRConfig, VPRPreTrainedModel
from d2vpr_hf.pretrained.model_files import OWN_TITLES
from d2vpr_hf.pretrained.stated_facts import StatedFacts, find_card, stated_facts

_PAPERS = {D2VPRConfig.model_type: "2511.12528", CricaVPRConfig.model_type: "2402.19231"}  # on arXiv


def facts_of(model: VPRPreTrainedModel, name: str | None = None, stated: StatedFacts | None = None) -> ModelFacts:
    """Return title, origin and rights of a model of this package, as far as its card states them.

    Args:
        model: The model.
        name: Folder or Hub id that has its card; `None` for a model that was never saved.
        stated: Facts of the card; `None` to read it.
    """
    num_parameters = sum(weight.numel() for weight in model.parameters())
    untrained_parts = tuple(model.config.untrained_parts)
    if name in (EMBEDDED_NAME, str(EMBEDDED_MODEL)):
        return replace(EMBEDDED.facts, num_parameters=num_parameters, untrained_parts=untrained_parts)
    title, arxiv = OWN_TITLES[model.config.model_type], _PAPERS[model.config.model_type]
    stated = stated_facts(find_card(name) or "") if stated is None else stated
    return ModelFacts(title, stated.license, stated.training_data, arxiv, num_parameters, untrained_parts)


def describe_encoder(config: VPRConfig, processor: D2VPRImageProcessor, facts: ModelFacts | None = None) -> EncoderEntry:
    """Return the values by which a graph of a model is run as an encoder.

    Args:
        config: The model's configuration.
        processor: The image processor for the steps that the graph does not contain.
        facts: The facts about the model; `None` for those in its configuration.
    """
    title, arxiv = OWN_TITLES[config.model_type], _PAPERS[config.model_type]
    return EncoderEntry(
        config.descriptor_dim,
        config.projection_dim,
        config.use_cross_image_encoder,
        steps_of(processor),
        facts or ModelFacts(title, arxiv=arxiv, untrained_parts=tuple(config.untrained_parts)),
    )


def steps_of(processor: D2VPRImageProcessor) -> Preprocessing:
    """Return the steps of an image processor of this package, which resizes in floating point."""
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else ((0.0,) * 3, (1.0,) * 3)
    return Preprocessing(
        size=size_of(processor),
        resample=PILImageResampling(processor.resample).name.lower(),  # type: ignore[arg-type] # bilinear or bicubic
        resized_as="float32",
        rescale_factor=float(processor.rescale_factor) if processor.do_rescale else 1.0,
        mean=tuple(mean),  # type: ignore[arg-type] # three channels
        std=tuple(std),  # type: ignore[arg-type]
    )


def size_of(processor: D2VPRImageProcessor) -> tuple[int, int] | None:
    """Return the height and width that an image processor resizes to; `None` if it does not."""
    return (processor.size["height"], processor.size["width"]) if processor.do_resize else None
