"""Options that a model is opened with, and that change its descriptors. This module loads no library."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from numbers import Integral
from typing import Any, Literal, Self, get_args

MAX_SIDE = 8192  # pixels; larger images need gigabytes each, and a file of someone else could state any size

Layer = int | str  # number of a hidden state, or name of a module
Pool = Literal["cls", "mean", "gem", "cls+gem", "pooler", "regions"]
TestTime = Literal["resize", "five-crops", "nearest-crop"]

SIZE_OPTIONS = ("image_size", "keep_aspect", "test_time")  # options that models of this package have too
DEFAULT_TEST_TIME: TestTime = "resize"


@dataclass(frozen=True)
class ModelOptions:
    """The way to compute descriptors: pooling and layer of a model that leaves them open, such as a DINOv2; sizes of photos.

    Attributes:
        pool: Pooling of the tokens to a descriptor: `"cls"`, `"mean"`, `"gem"`, `"cls+gem"`, `"pooler"` or `"regions"`; `None`
            for the default of the model's family.
        image_size: Height and width in pixels that photos are resized to; `None` for the size in the model's preprocessing.
        layer: Number of the layer whose tokens are pooled: 1 is the first block, -1 the last, and 0 the patches before it; or
            the name of a module, such as `"layer.12.expand_1x1"`; `None` for the model's output.
        center_crop: Whether photos are cropped at their centre where the model's preprocessing does so. By default the whole
            photo is resized, because places are recognised by what is at its sides, too.
        keep_aspect: Whether the shorter side of a photo becomes the smaller number of the size, and the other side keeps the
            photo's aspect; both are rounded to whole patches.
        test_time: Form of queries; database photos are resized with every form. `"resize"` resizes them too; `"five-crops"`
            takes the mean of the descriptors of five square crops, at the corners and in the centre; `"nearest-crop"` compares
            each of the five with the database, and the smallest distance counts.
        dim: Number of the first numbers of each descriptor to take, which are then divided by their length; `None` for all.
    """

    pool: Pool | None = None
    image_size: tuple[int, int] | None = None
    layer: Layer | None = None
    center_crop: bool = False
    keep_aspect: bool = False
    test_time: TestTime = DEFAULT_TEST_TIME
    dim: int | None = None

    def __post_init__(self) -> None:
        """Check the values, and store numbers as Python's own, which JSON has."""
        if self.pool is not None and self.pool not in get_args(Pool):
            raise ValueError(f"`pool` must be one of {', '.join(get_args(Pool))}, got {self.pool!r}.")
        if self.image_size is not None:
            object.__setattr__(self, "image_size", _read_size(self.image_size))
        if self.layer is not None and not _is_module_name(self.layer):
            if not _is_whole_number(self.layer):
                raise ValueError(f"`layer` must be a whole number or the name of a module, got {self.layer!r}.")
            object.__setattr__(self, "layer", int(self.layer))
        for name in ("center_crop", "keep_aspect"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"`{name}` must be true or false, got {getattr(self, name)!r}.")
        if self.center_crop and self.keep_aspect:
            raise ValueError("`keep_aspect` takes whole photos, and `center_crop` a part of them. Give one of them.")
        if self.dim is not None:
            if not _is_whole_number(self.dim) or self.dim < 1:
                raise ValueError(f"`dim` must be a whole number of at least 1, got {self.dim!r}.")
            object.__setattr__(self, "dim", int(self.dim))
        if self.test_time not in get_args(TestTime):
            raise ValueError(f"`test_time` must be one of {', '.join(get_args(TestTime))}, got {self.test_time!r}.")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the options that an index records.

        Raises:
            ValueError: If there is an option that this version does not have, or a value is wrong.
        """
        unknown = sorted(set(values) - set(cls.__dataclass_fields__))
        if unknown:
            raise ValueError(f"This version of the package does not have the model options {', '.join(unknown)}. Update it.")
        size = values.get("image_size")
        if size is not None and not isinstance(size, list | tuple):
            raise ValueError(f"`image_size` must be a list of a height and a width in pixels, got {size!r}.")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return the options that are set, as JSON values; an empty table for none."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        is_default = {"test_time": values["test_time"] == DEFAULT_TEST_TIME}
        return {name: value for name, value in values.items() if is_set(value) and not is_default.get(name)}


def is_set(value: object) -> bool:
    """Return whether the value of an option differs from its default, `None` or `False`; 0 is the number of a layer."""
    return value is not None and value is not False


def is_side(value: object) -> bool:
    """Return whether a value is a length of an image in pixels, within bounds."""
    return type(value) is int and 1 <= value <= MAX_SIDE


def _read_size(size: Any) -> tuple[int, int]:
    """Return a height and a width; one number means a square."""
    sides = tuple(size) if isinstance(size, list | tuple) else (size, size)
    if len(sides) != 2 or not all(_is_whole_number(side) and 1 <= side <= MAX_SIDE for side in sides):
        raise ValueError(f"`image_size` must be a height and a width in pixels, from 1 to {MAX_SIDE}, got {size!r}.")
    return int(sides[0]), int(sides[1])


def _is_module_name(value: object) -> bool:
    """Return whether a value is the name of a module: a text that is not a number."""
    return isinstance(value, str) and value != "" and not value.lstrip("+-").isdecimal()


def _is_whole_number(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
