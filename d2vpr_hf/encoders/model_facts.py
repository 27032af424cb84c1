"""Facts about a model that people read before they use it. This module loads no library."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelFacts:
    """Origin and rights of a model.

    Attributes:
        title: Name for people, such as `"DINOv2 ViT-S/14"`.
        license: Licence of the weights, as an SPDX identifier or the name of another licence; `None` if none is stated.
        training_data: One sentence about the photos that the weights were trained on, and rights that these may restrict;
            `None` if it is not known.
        arxiv: Identifier of the paper on arXiv, such as `"2304.07193"`; `None` without one.
        num_parameters: Number of weights; `None` if it is not known, as for a graph.
        untrained_parts: Parts that were drawn at random and never trained.
    """

    title: str
    license: str | None = None
    training_data: str | None = None
    arxiv: str | None = None
    num_parameters: int | None = None
    untrained_parts: tuple[str, ...] = ()
