"""Facts about a model that people read before they use it. This module loads no library."""

from dataclasses import dataclass

from d2vpr_hf.utils.printable import printable_line

# data sets whose terms may restrict weights that were trained on them, whatever the licence of the weights
_RESTRICTED = {"GSV-Cities": "CC BY-NC-ND 4.0", "SF-XL": "given out for research"}


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

    def __post_init__(self) -> None:
        """Make each text one line that does not steer terminals: files of other people state these facts."""
        for name in ("title", "license", "training_data", "arxiv"):
            if (text := getattr(self, name)) is not None:
                object.__setattr__(self, name, printable_line(text))

    @property
    def question(self) -> str | None:
        """A remark for people who want to use the weights: their training data may restrict this; `None` without one."""
        named = [f"{name} ({terms})" for name, terms in _RESTRICTED.items() if name in (self.training_data or "")]
        if not named:
            return None
        return (
            f"The weights were trained on {' and '.join(named)}. Whether these terms bind the weights is not settled: clarify "
            "it before a commercial use."
        )

    @property
    def rights(self) -> str:
        """Licence and training data in one or two sentences."""
        license = "No licence of the weights is stated." if self.license is None else f"Licence of the weights: {self.license}."
        data = "" if self.training_data is None else f" Trained on {self.training_data.rstrip('.')}."
        return f"{license}{data}"
