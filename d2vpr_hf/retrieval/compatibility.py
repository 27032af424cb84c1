"""Check that an encoder makes the descriptors that an index holds."""

from __future__ import annotations

import logging
from typing import Any

from d2vpr_hf.encoders import Encoder
from d2vpr_hf.index import IndexSettings, PlaceIndex

logger = logging.getLogger(__name__)


def index_settings(encoder: Encoder) -> IndexSettings:
    """Return the encoder settings that an index records, with the default settings of how rows are stored."""
    return IndexSettings(
        model_name=encoder.model_name,
        fingerprint=encoder.fingerprint,
        descriptor_dim=encoder.descriptor_dim,
        projection_dim=encoder.projection_dim,
        batch_size=encoder.batch_size,
        runtimes=(encoder.runtime,),
        model_revision=getattr(encoder, "model_revision", None),  # encoders of other programs may have none
        model_options=getattr(encoder, "model_options", {}),
    )


def compatible_with(encoder: Encoder) -> tuple[str, ...]:
    """Return the fingerprints of the models whose indexes an encoder's queries can search, besides its own."""
    return tuple(getattr(encoder, "compatible_with", ()))


def check_pair(database_encoder: Encoder, encoder: Encoder) -> None:
    """Raise ValueError unless the descriptors of two encoders can be compared.

    They can if both are of one model, or if one of them was distilled into the space of the other.
    """
    first, second = database_encoder.fingerprint, encoder.fingerprint
    if first != second and first not in compatible_with(encoder) and second not in compatible_with(database_encoder):
        raise ValueError(
            f"{_name(encoder)} and {_name(database_encoder)} make descriptors that cannot be compared: neither states the "
            "other's fingerprint in `compatible_with`. Distillation writes it for equal widths, or with `head_policy: keep`."
        )


def describe_pair(index: PlaceIndex, encoder: Encoder) -> str | None:
    """Return a line that names both models where queries have another one than the index; `None` where they have the same."""
    if encoder.fingerprint == index.settings.fingerprint:
        return None
    made_by = index.settings.model_name or "another model"
    return f"Queries are encoded by {_name(encoder)}; the index was made by {made_by}, which it is compatible with."


def _name(encoder: Encoder) -> str:
    return encoder.model_name or f"the model with the fingerprint {encoder.fingerprint[:12]}"


def check_encoder(index: PlaceIndex, encoder: Encoder, *, for_queries: bool = False) -> None:
    """Raise ValueError unless an encoder makes the descriptors that an index holds.

    Args:
        index: The index.
        encoder: The encoder.
        for_queries: Whether it encodes queries only, so that a model that is compatible with that of the index will do.
    """
    expected, fingerprint = index.settings.fingerprint, encoder.fingerprint
    if for_queries and expected in compatible_with(encoder):
        return
    if fingerprint != expected:
        if expected in compatible_with(encoder):
            raise ValueError(
                f"{_name(encoder)} is compatible with the model of the index, {index.settings.model_name or 'without a name'}: "
                "it can search the index, but not add photos to it. Add them with the model of the index."
            )
        index.settings.check_has_model()
        name = index.settings.model_name or "the model that comes with this package, or one that was never saved"
        if index.settings.model_revision is not None:
            name = f"{name} at commit {index.settings.model_revision[:12]}"
        recorded, options = index.settings.model_options, getattr(encoder, "model_options", {})
        if options != recorded:
            name = f"{name} with {_options_text(recorded)} (here with {_options_text(options)})"
        advice = ""
        if for_queries and compatible_with(encoder):
            advice = (
                " This encoder can search indexes of its teacher with photos of the size that the teacher saw. A teacher with "
                "a cross-image encoder makes them by a copy without it (docs/training.md, One map for two models)."
            )
        raise ValueError(
            f"The index was built with another model or other preprocessing: with {name}, fingerprint {expected[:12]} at that "
            f"time, while this encoder has {fingerprint[:12]}. Use that model (`model`), or build the index again with "
            f"`d2vpr index PHOTOS --overwrite`.{advice}"
        )


def _options_text(options: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.items()) or "no options"


def check_setup(index: PlaceIndex, encoder: Encoder, dtype: str | None = None, *, building: bool) -> None:
    """Raise ValueError unless an encoder can add rows to an index.

    Args:
        index: The index.
        encoder: The encoder of the new rows.
        dtype: Number type of the new descriptors; `None` for the type of the index.
        building: Whether the index is not complete, so that another backend or precision is an error and not a warning.
    """
    index.check_takes_photos()
    check_encoder(index, encoder)
    _check_runtime(index, encoder, building)
    batch_size = index.settings.batch_size
    if encoder.depends_on_batch and batch_size not in (None, encoder.batch_size):
        raise ValueError(
            f"Descriptors of this model depend on the other photos of a batch, so on its size: {batch_size} in the index, "
            f"{encoder.batch_size} in this run. Give `batch_size={batch_size}`, or `overwrite=True`."
        )
    if dtype not in (None, index.settings.dtype):
        raise ValueError(f"The index holds {index.settings.dtype}, not {dtype}. Leave `dtype` out, or give `overwrite=True`.")


def _check_runtime(index: PlaceIndex, encoder: Encoder, building: bool) -> None:
    """Refuse another backend or precision while an index is built, and log a warning later: descriptors differ slightly."""
    latest = index.settings.runtime
    if latest is None or encoder.runtime == latest:
        return
    if building:
        raise ValueError(
            f"The index {index.folder} is not complete, and its rows are made by {latest}, not by {encoder.runtime}. "
            f'Continue with `backend="{latest.backend}", precision="{latest.precision}"`, or give `overwrite=True`.'
        )
    logger.warning(
        "The latest rows of the index %s were made by %s, and this encoder runs by %s. Descriptors of one photo then differ "
        'slightly; docs/speed.md has the figures. `backend="%s", precision="%s"` keeps the runtime of the index.',
        index.folder,
        latest,
        encoder.runtime,
        latest.backend,
        latest.precision,
    )
