"""Options that a model is opened with, and that change its descriptors. This module loads no library."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, get_args

MAX_SIDE = 8192  # pixels; larger images need gigabytes each, and a file of someone else could state any size

Pool = Literal["cls", "mean", "gem", "cls+gem", "pooler", "regions"]


@dataclass(frozen=True)
class ModelOptions:
    """The way to compute descriptors by a model that leaves it open, such as a DINOv2. Models of this package have no options.

    Attributes:
        pool: Pooling of the tokens to a descriptor: `"cls"`, `"mean"`, `"gem"`, `"cls+gem"`, `"pooler"` or `"regions"`; `None`
            for the default of the model's family.
        image_size: Height and width in pixels that photos are resized to; `None` for the size in the model's preprocessing.
        layer: Number of the layer whose tokens are pooled: 1 is the first block, -1 the last, and 0 the patches before it;
            `None` for the model's output.
        center_crop: Whether photos are cropped at their centre where the model's preprocessing does so. By default the whole
            photo is resized, because places are recognised by what is at its sides, too.
    """

    pool: Pool | None = None
    image_size: tuple[int, int] | None = None
    layer: int | None = None
    center_crop: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        if self.pool is not None and self.pool not in get_args(Pool):
            raise ValueError(f"`pool` must be one of {', '.join(get_args(Pool))}, got {self.pool!r}.")
        if self.image_size is not None and (len(self.image_size) != 2 or not all(map(is_side, self.image_size))):
            raise ValueError(
                f"`image_size` must be a height and a width in pixels, from 1 to {MAX_SIDE}, got {self.image_size!r}."
            )
        if self.layer is not None and type(self.layer) is not int:
            raise ValueError(f"`layer` must be a whole number, got {self.layer!r}.")
        if not isinstance(self.center_crop, bool):
            raise ValueError(f"`center_crop` must be true or false, got {self.center_crop!r}.")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the options that an index records.

        Raises:
            ValueError: If there is an option that this version does not have.
        """
        unknown = sorted(set(values) - set(cls.__dataclass_fields__))
        if unknown:
            raise ValueError(f"This version of the package does not have the model options {', '.join(unknown)}. Update it.")
        size = values.get("image_size")
        return cls(**{**values, "image_size": None if size is None else tuple(size)})

    def to_dict(self) -> dict[str, Any]:
        """Return the options that are set, as JSON values; an empty table for none."""
        values = {name: value for name, value in asdict(self).items() if value not in (None, False)}
        return values | ({} if self.image_size is None else {"image_size": list(self.image_size)})


def is_side(value: object) -> bool:
    """Return whether a value is a length of an image in pixels, within bounds."""
    return type(value) is int and 1 <= value <= MAX_SIDE
