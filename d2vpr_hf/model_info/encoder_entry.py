"""The entry `encoder` of `export.json`, by which a graph runs as an encoder. Importing this module loads no torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from d2vpr_hf.model_info.model_facts import ModelFacts
from d2vpr_hf.model_info.preprocessing import Preprocessing

ENCODER_KEY = "encoder"  # in `export.json`; exports of earlier versions lack it


@dataclass(frozen=True)
class EncoderEntry:
    """Values that a graph alone does not have.

    Attributes:
        descriptor_dim: Width of the descriptors.
        projection_dim: Width that a projection reduces descriptors to; `None` without one.
        depends_on_batch: Whether a photo's descriptor depends on the other photos of its batch.
        preprocessing: The steps from an image to the input of the graph.
        facts: Origin and rights of the model.
        model_options: The options that the model was opened with, as of [`ModelOptions.to_dict`].
    """

    descriptor_dim: int
    projection_dim: int | None
    depends_on_batch: bool
    preprocessing: Preprocessing
    facts: ModelFacts
    model_options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the form of [`to_dict`].

        Raises:
            KeyError, TypeError, ValueError: If a value is missing or wrong.
        """
        facts = dict(values["facts"])
        return cls(
            int(values["descriptor_dim"]),
            values["projection_dim"],
            bool(values["depends_on_batch"]),
            Preprocessing.from_dict(values["preprocessing"]),
            ModelFacts(**facts | {"untrained_parts": tuple(facts.get("untrained_parts", ()))}),
            dict(values.get("model_options", {})),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return all values as JSON values."""
        size = self.preprocessing.input_size
        return {
            "descriptor_dim": self.descriptor_dim,
            "projection_dim": self.projection_dim,
            "depends_on_batch": self.depends_on_batch,
            "input_size": None if size is None else list(size),
            "preprocessing": self.preprocessing.to_dict(),
            "facts": asdict(self.facts) | {"untrained_parts": list(self.facts.untrained_parts)},
            "model_options": self.model_options,
        }
