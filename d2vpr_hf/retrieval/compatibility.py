"""Whether an encoder and an index fit together."""

from __future__ import annotations

import logging

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
    )


def check_encoder(index: PlaceIndex, encoder: Encoder) -> None:
    """Raise ValueError unless an encoder makes the descriptors that an index holds."""
    found = encoder.fingerprint
    if found != index.settings.fingerprint:
        name = index.settings.model_name or "the model that comes with this package, or one that was never saved"
        raise ValueError(
            f"The index was built with another model or other preprocessing: with {name} as it was then, fingerprint "
            f"{index.settings.fingerprint[:12]}, while this one has {found[:12]}. Search with that model (`--model`), or build "
            "the index anew with `d2vpr index`."
        )


def check_setup(index: PlaceIndex, encoder: Encoder, dtype: str | None = None, *, building: bool) -> None:
    """Raise ValueError unless an encoder can go on with an index as it was begun."""
    check_encoder(index, encoder)
    _check_runtime(index, encoder, building)
    batch_size = index.settings.batch_size
    if encoder.depends_on_batch and batch_size not in (None, encoder.batch_size):
        raise ValueError(
            f"The model has a cross-image encoder, so that descriptors depend on the batch size: {batch_size} in the "
            f"index, {encoder.batch_size} in this run. Give `--batch-size {batch_size}`, or `--overwrite`."
        )
    if dtype not in (None, index.settings.dtype):
        raise ValueError(f"The index holds {index.settings.dtype}, not {dtype}. Leave `--dtype` out, or give `--overwrite`.")


def _check_runtime(index: PlaceIndex, encoder: Encoder, building: bool) -> None:
    """Refuse another backend or precision within a build, and warn of it otherwise: rows differ hardly, but they do."""
    latest = index.settings.runtime
    if latest is None or encoder.runtime == latest:
        return
    if building:
        raise ValueError(
            f"The index {index.folder} is not complete, and its rows are made by {latest}, not by {encoder.runtime}. Go on "
            f"with `--backend {latest.backend} --backend-precision {latest.precision}`, or give `--overwrite`."
        )
    logger.warning(
        "The latest rows of the index %s were made by %s; what is encoded now is by %s. Descriptors of one photo then differ "
        "slightly: docs/speed.md says how much. `--backend %s --backend-precision %s` keeps to what was used.",
        index.folder,
        latest,
        encoder.runtime,
        latest.backend,
        latest.precision,
    )
