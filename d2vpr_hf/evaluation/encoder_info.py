"""The encoder of an evaluation, as reports record it."""

from dataclasses import dataclass, field
from typing import Any

from d2vpr_hf.encoders import Encoder
from d2vpr_hf.model_info.model_options import SIZE_OPTIONS
from d2vpr_hf.utils.value_types import check_types

_KEYS = {  # attribute -> key in reports, in the order of the file
    "model_name": "name",
    "fingerprint": "fingerprint",
    "descriptor_dim": "descriptor_dim",
    "projection_dim": "projection_dim",
    "resolution": "resolution",
    "shorter_side": "shorter_side",
    "batch_size": "batch_size",
    "cross_image_encoder": "cross_image_encoder",
    "device": "device",
    "backend": "backend",
    "precision": "precision",
    "model_options": "options",
    "license": "license",
}
_OMITTED = ("shorter_side", "options", "license")  # keys that reports lack where there is nothing to record

_QUERY_FORMS = {"five-crops": "mean of five square crops", "nearest-crop": "nearest of five square crops"}  # by `test_time`


@dataclass(frozen=True)
class EncoderInfo:
    """The model and the settings that made an evaluation's descriptors; a comparison of recalls must consider both.

    If descriptors were given instead of photos, only `descriptor_dim` is known and everything else is `None`.

    Attributes:
        model_name: Folder or Hub name; `"embedded"` for the model in this package, or `None` in earlier reports.
        fingerprint: Hash of weights, configuration and preprocessing.
        descriptor_dim: Numbers of a descriptor.
        projection_dim: Numbers after the projection; `None` without one.
        resolution: Height and width of the network's input in pixels; `None` if they depend on the photo or are not known.
        batch_size: Photos of a batch; with a cross-image encoder the descriptors depend on it.
        cross_image_encoder: Whether a cross-image encoder ran.
        device: Type of the device, such as `"cpu"`.
        backend: Name of the backend, such as `"torch"`.
        precision: Precision of the backend, such as `"fp32"`.
        model_options: The options that the model was opened with, such as its pooling; empty if it has none.
        license: Licence of the weights, if it is stated.
        shorter_side: Pixels of the shorter side of photos that kept their aspect; `None` if they did not.
    """

    model_name: str | None = None
    fingerprint: str | None = None
    descriptor_dim: int | None = None
    projection_dim: int | None = None
    resolution: tuple[int, int] | None = None
    batch_size: int | None = None
    cross_image_encoder: bool | None = None
    device: str | None = None
    backend: str | None = None
    precision: str | None = None
    model_options: dict[str, Any] = field(default_factory=dict)
    license: str | None = None
    shorter_side: int | None = None

    @classmethod
    def of(cls, encoder: Encoder) -> "EncoderInfo":
        """Return the information about an encoder; encoders of other programs need only the attributes of [`Encoder`]."""
        return cls(
            model_name=encoder.model_name,
            fingerprint=encoder.fingerprint,
            descriptor_dim=encoder.descriptor_dim,
            projection_dim=encoder.projection_dim,
            resolution=getattr(encoder, "input_size", None),
            shorter_side=getattr(encoder, "shorter_side", None),
            batch_size=encoder.batch_size,
            cross_image_encoder=encoder.depends_on_batch,
            device=getattr(encoder, "device_type", None),
            backend=encoder.runtime.backend,
            precision=encoder.runtime.precision,
            model_options=getattr(encoder, "model_options", {}),
            license=getattr(getattr(encoder, "facts", None), "license", None),
        )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "EncoderInfo":
        """Read the `model` of a report; keys that an older report lacks are `None`.

        Raises:
            ValueError: If a value has a wrong type.
        """
        attributes = {attribute: values.get(key) for attribute, key in _KEYS.items()}
        height_and_width = attributes["resolution"]
        resolution = None if height_and_width is None else tuple(height_and_width)
        encoder = cls(**attributes | {"resolution": resolution, "model_options": attributes["model_options"] or {}})
        check_types(encoder)
        return encoder

    def to_dict(self) -> dict[str, Any]:
        """Return the `model` of a report. For given descriptors, keys without a value are omitted."""
        values = {key: getattr(self, attribute) for attribute, key in _KEYS.items()}
        if self.resolution is not None:
            values["resolution"] = list(self.resolution)
        omitted = _OMITTED if self.fingerprint is not None else values
        return {key: value for key, value in values.items() if key not in omitted or value not in (None, {})}

    @property
    def size_text(self) -> str:
        """The size of the network's input, and the form of queries."""
        size = "photos of several sizes" if self.resolution is None else "{}x{}".format(*self.resolution)
        if self.shorter_side is not None:
            size = f"shorter side {self.shorter_side} with the photo's aspect"
        form = _QUERY_FORMS.get(str(self.model_options.get("test_time")))
        return size if form is None else f"{size} (queries: {form})"

    def __str__(self) -> str:
        if self.fingerprint is None:
            return f"descriptors of {self.descriptor_dim} numbers, given by the user"
        options = "".join(
            f", {name} {_option_text(value)}" for name, value in self.model_options.items() if name not in SIZE_OPTIONS
        )
        projection = "no projection" if self.projection_dim is None else f"projected to {self.projection_dim}"
        cross_image_encoder = "RAN: numbers depend on batch and order" if self.cross_image_encoder else "none"
        return (
            f"{self.model_name or 'a model without a name'}{options}, fingerprint {self.fingerprint[:12]}, {self.size_text}, "
            f"{self.descriptor_dim} numbers ({projection}), batch size {self.batch_size}, "
            f"cross-image encoder: {cross_image_encoder}"
        )


def _option_text(value: Any) -> str:
    return "on" if value is True else str(value)
