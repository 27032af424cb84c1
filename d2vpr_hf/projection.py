"""Fit a projection of descriptors, PCA or whitening, and store it in a model.

The covariance of all descriptors is summed block by block: exact, in memory that depends on their width D only (D² float32, 462
MB for 10,752). With at most D photos, the products of the photos with each other lead to the same result and are smaller.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh

from d2vpr_hf.encoders.own_models import OwnModel
from d2vpr_hf.hub.model_cards import CardFacts, stated_base_model, write_card
from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.model_info.embedded_model import EMBEDDED_NAME
from d2vpr_hf.modeling.modeling_vpr import DescriptorProjection
from d2vpr_hf.pretrained.fitted_photos import PROJECTION_FILE, checksums
from d2vpr_hf.projected_files import ModelFiles, find_model_files, projected_card, write_projected_model
from d2vpr_hf.readers import PlaceTable, read_places
from d2vpr_hf.readers.place_table import check_any_photo
from d2vpr_hf.readers.remarks import Remark, merge_remarks, report_remarks
from d2vpr_hf.readers.skipped import report_skipped
from d2vpr_hf.retrieval.compatibility import check_encoder
from d2vpr_hf.utils.atomic_files import check_free, new_folder, write_file

if TYPE_CHECKING:
    from d2vpr_hf.encoders import Progress
    from d2vpr_hf.encoders.place_encoder import PlaceEncoder

logger = logging.getLogger(__name__)

PUBLISHED_SAMPLE = 16_384  # photos, at most, that the authors of D²-VPR fit the PCA of their published results to

_LEAST_VARIANCE = 1e-6  # of the largest variance; below it, float32 descriptors vary by rounding only
_PHOTOS_AT_ONCE = 256


@dataclass(frozen=True)
class Projection:
    """A linear map of descriptors, as [`DescriptorProjection`] computes it: (descriptor - mean) @ components.T.

    Attributes:
        mean: (D,) float32.
        components: (dim, D) float32, by decreasing variance; orthonormal. For whitening, each is divided by the standard
            deviation along it and by the root of `dim`, so that projected descriptors have a mean squared length of 1.
        explained: Share of the variance that the components explain, in [0, 1].
    """

    mean: NDArray[np.float32]
    components: NDArray[np.float32]
    explained: float


class ProjectionFit:
    """Collects descriptors, then computes their principal components.

    Args:
        descriptor_dim: Their width D.
    """

    def __init__(self, descriptor_dim: int) -> None:
        self._width = descriptor_dim
        self._count = 0
        self._few: list[torch.Tensor] = []  # all descriptors, while they are fewer than their width
        self._shift = torch.zeros(descriptor_dim)  # near the mean: sums of differences from it lose less to rounding
        self._sum = torch.zeros(descriptor_dim, dtype=torch.float64)
        self._products: torch.Tensor | None = None

    def add(self, descriptors: NDArray[np.float32]) -> None:
        """Add descriptors (n, D)."""
        block = torch.tensor(descriptors, dtype=torch.float32)
        if not self._count and len(block):
            self._shift = block.mean(0)
        block -= self._shift
        self._count += len(block)
        self._sum += block.double().sum(0)
        if self._products is None and self._count <= self._width:
            self._few.append(block)
            return
        if self._products is None:
            self._products = torch.zeros(self._width, self._width)
        for part in [*self._few, block]:
            self._products.addmm_(part.T, part)
        self._few.clear()

    def components(self, dim: int, whiten: bool = False) -> Projection:
        """Return the `dim` directions of the largest variance.

        Raises:
            ValueError: If the descriptors vary along fewer directions.
        """
        if not 1 <= dim <= min(self._width, self._count - 1):
            raise ValueError(
                f"{self._count} descriptors of {self._width} numbers have at most {max(0, min(self._width, self._count - 1))} "
                f"components, got `dim={dim}`. Give more photos, or a smaller `dim`."
            )
        mean = self._sum / self._count
        variances, axes, total = self._from_rows(mean, dim) if self._products is None else self._from_products(mean, dim)
        if variances[-1] <= _LEAST_VARIANCE * variances[0]:
            count = int((variances > _LEAST_VARIANCE * variances[0]).sum())
            raise ValueError(f"The descriptors vary along {count} directions only, got `dim={dim}`. Give a smaller `dim`.")
        axes *= np.sign(axes[np.arange(dim), np.abs(axes).argmax(axis=1)])[:, None]  # the sign of an eigenvector is arbitrary
        scale = 1 / np.sqrt(dim * variances)[:, None] if whiten else 1.0
        shifted = (self._shift.double() + mean).numpy().astype(np.float32)
        return Projection(shifted, (axes * scale).astype(np.float32), float(variances.sum() / total))

    def _from_rows(self, mean: torch.Tensor, dim: int) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
        """Solve for at most D photos: eigenvectors of the photos' products (n, n), mapped back to descriptors."""
        rows = torch.cat(self._few) - mean.float()
        products = (rows @ rows.T).double().numpy() / (self._count - 1)
        values, vectors = eigh(products, subset_by_index=(self._count - dim, self._count - 1))
        axes = (rows.double().T @ torch.from_numpy(vectors[:, ::-1].copy())).T.numpy()
        lengths = np.maximum(np.linalg.norm(axes, axis=1, keepdims=True), 1e-30)
        return values[::-1].copy(), axes / lengths, float(np.trace(products))

    def _from_products(self, mean: torch.Tensor, dim: int) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
        """Solve for more than D photos: eigenvectors of the covariance (D, D), which is overwritten."""
        assert self._products is not None
        covariance = self._products.addr_(mean.float(), mean.float(), alpha=-self._count).div_(self._count - 1)
        total = float(covariance.diagonal().double().sum())
        self._products = None
        values, vectors = eigh(covariance.numpy(), subset_by_index=(self._width - dim, self._width - 1), overwrite_a=True)
        return values[::-1].astype(np.float64), vectors.T[::-1].astype(np.float64), total


def fit_projection(
    photos: str | Path | PlaceTable,
    out: str | Path,
    encoder: "PlaceEncoder",
    dim: int,
    *,
    whiten: bool = False,
    sample: int | None = None,
    seed: int = 0,
    strict: bool = False,
    progress: "Progress | None" = None,
) -> Projection:
    """Fit a projection to photos, and write the encoder's model with it, into a new folder.

    A model of this package has the projection among its weights. The folder of another model has unchanged copies of its files,
    the projection in `projection.safetensors`, and a card, `encoder.json`, by which this package opens them together.

    Args:
        photos: A folder, a CSV file, or a table of [`read_places`]. Use other photos than those that the model is evaluated on:
            their checksums are stored, and `d2vpr evaluate` warns.
        out: The folder; missing or empty.
        encoder: An encoder with the model. A model of this package is changed in memory, too.
        dim: Width of the projected descriptors.
        whiten: Whether all directions get the same variance; the model then scales projected descriptors to unit length.
        sample: Number of photos to draw, see [`draw_sample`]; `None` or a larger number than there are for all of them. The
            published projections are fitted to `PUBLISHED_SAMPLE`.
        seed: Random seed of the sample.
        strict: Whether a photo that cannot be read is an error.
        progress: Called with the number of photos just finished.

    Raises:
        FileExistsError: If `out` is not free.
        ValueError: If the model has a projection already, was never saved, or is of a kind that has no files to store a
            projection with, or if the photos are too few.
    """
    files = _check_model(encoder, Path(out), sample)
    table = read_places(photos) if isinstance(photos, str | Path) else photos
    report_remarks(table.remarks)
    check_any_photo(table)
    rows = draw_sample(table.paths, sample, seed)
    if len(rows) < len(table.places):
        table = replace(table, places=[table.places[row] for row in rows.tolist()], place_ids=None, group_ids=None)
    fitted, used = _encode(table, encoder, strict, progress)
    facts = {"photos": sorted(checksums(used))} | _sample_facts(sample, seed)
    return _store(fitted, Path(out), encoder, files, dim, whiten, facts)


def fit_index_projection(
    index: PlaceIndex,
    out: str | Path,
    encoder: "PlaceEncoder",
    dim: int,
    *,
    whiten: bool = False,
    sample: int | None = None,
    seed: int = 0,
    progress: "Progress | None" = None,
) -> Projection:
    """Fit a projection to the descriptors of an index, and write the model with it, as [`fit_projection`] does.

    No photo is encoded, and descriptors are read block by block. The result is that of [`fit_projection`] with the same photos,
    up to the number type of the index: float16 descriptors are rounded.

    Args:
        index: An index of the encoder's model.
        out: The folder; missing or empty.
        encoder: An encoder with the model of the index.
        dim: Width of the projected descriptors.
        whiten: Whether all directions get the same variance.
        sample: Number of rows to draw; `None` for all of them.
        seed: Random seed of the sample.
        progress: Called with the number of rows just read.

    Raises:
        FileExistsError: If `out` is not free.
        ValueError: If the index was built with another model or holds projected descriptors, or as for [`fit_projection`].
    """
    if index.settings.projection_dim is not None:
        raise ValueError(
            f"The index {index.folder} holds descriptors that are projected to {index.settings.projection_dim} numbers. Give "
            "an index of the model without a projection."
        )
    check_encoder(index, encoder)
    files = _check_model(encoder, Path(out), sample)
    rows = draw_sample(index.places.column("path"), sample, seed)
    fitted, descriptors = ProjectionFit(index.settings.descriptor_dim), index.descriptors
    for start in range(0, len(rows), _PHOTOS_AT_ONCE):
        block = descriptors.take(rows[start : start + _PHOTOS_AT_ONCE])
        fitted.add(block)
        if progress is not None:
            progress(len(block))
    hashes = index.places.column("content_hash")
    used_hashes = [hashes[row][:16] for row in rows.tolist() if hashes[row] is not None]
    if len(used_hashes) < len(rows):
        logger.warning(
            "%d of %d photos have no checksum in the index; an evaluation cannot warn that the projection was fitted to them.",
            len(rows) - len(used_hashes),
            len(rows),
        )
    facts = {"photos": sorted(used_hashes)} | _sample_facts(sample, seed)
    return _store(fitted, Path(out), encoder, files, dim, whiten, facts)


def draw_sample(paths: Sequence[str], count: int | None, seed: int) -> NDArray[np.int64]:
    """Return the rows of a random sample of photos, ascending; all rows without a `count` or if there are fewer.

    Photos are drawn by a hash of the seed and their paths: a folder and its index give the same photos, in whichever order.
    """
    if count is None or count >= len(paths):
        return np.arange(len(paths), dtype=np.int64)
    digests = (hashlib.sha256(f"{seed}:{path}".encode(errors="surrogateescape")).digest()[:8] for path in paths)
    numbers = np.frombuffer(b"".join(digests), ">u8")
    return np.sort(np.argsort(numbers, kind="stable")[:count])


def _sample_facts(sample: int | None, seed: int) -> dict[str, Any]:
    return {} if sample is None else {"sample": sample, "seed": seed}


def _check_model(encoder: "PlaceEncoder", out: Path, sample: int | None) -> ModelFiles | None:
    """Check the arguments before the work, and return the files of a model of another library."""
    check_free(out)
    if sample is not None and sample < 2:
        raise ValueError(f"Expected `sample` of at least 2 photos, got {sample}.")
    if "dim" in encoder.model_options:
        raise ValueError("A projection is fitted to whole descriptors. Leave `dim` out.")
    if encoder.projection_dim is not None:
        raise ValueError(
            f"The model has a projection to {encoder.projection_dim} numbers already. Fit one to the model without it."
        )
    model = encoder.descriptor_model
    return None if isinstance(model, OwnModel) else find_model_files(model)


def _store(
    fitted: ProjectionFit,
    out: Path,
    encoder: "PlaceEncoder",
    files: ModelFiles | None,
    dim: int,
    whiten: bool,
    facts: dict[str, Any],
) -> Projection:
    """Compute the projection and write the model with it; `facts` are added to those in `projection.json`."""
    projection = fitted.components(dim, whiten)
    facts = {"dim": dim, "whiten": whiten, "explained": projection.explained} | facts
    if files is not None:
        card = projected_card(encoder.descriptor_model, files, facts)
        _write(out, facts, lambda folder: write_projected_model(folder, files, card, projection.mean, projection.components))
        return projection
    source = encoder.model_name
    if encoder.model_options.get("keep_aspect"):
        facts |= {"keep_aspect": True}
        logger.warning(
            "The image processor in %s stores the size of photos, and not that they keep their aspect. Open the model with "
            "`keep_aspect=True`, as the projection was fitted.",
            out,
        )
    _set_projection(encoder, projection, whiten)
    _write(out, facts, lambda folder: _save_own_model(folder, encoder, facts, source))
    return projection


def _set_projection(encoder: "PlaceEncoder", projection: Projection, whiten: bool) -> None:
    """Set the projection of a model of this package."""
    config, dim = encoder.model.config, len(projection.components)
    config.projection_dim, config.normalize_projection = dim, whiten
    config.compatible_with, config.own_fingerprint = [], None  # the projected descriptors are in another space
    encoder.model.projection = DescriptorProjection(config.unprojected_dim, dim).to(encoder.device)
    with torch.no_grad():
        encoder.model.projection.mean.copy_(torch.from_numpy(projection.mean))
        encoder.model.projection.components.copy_(torch.from_numpy(projection.components))
    encoder.reopen_backend()


def _encode(
    table: PlaceTable, encoder: "PlaceEncoder", strict: bool, progress: "Progress | None"
) -> tuple[ProjectionFit, list[Path]]:
    """Add the descriptors of photos to a fit, block by block; return it with the photos that were encoded."""
    fitted, used = ProjectionFit(encoder.descriptor_dim), list[Path]()
    skipped, remarks = dict(table.skipped), list[Remark]()
    for start in range(0, len(table.places), _PHOTOS_AT_ONCE):
        places = table.places[start : start + _PHOTOS_AT_ONCE]
        encoded = encoder.encode([table.photo(place) for place in places], progress)
        fitted.add(encoded.descriptors)
        remarks += encoded.remarks([place.path for place in places])
        used += [table.photo(places[row]) for row in encoded.rows]
        skipped |= {places[row].path: why for row, why in encoded.skipped.items()}
    report_remarks(merge_remarks(remarks))
    report_skipped(skipped, len(table.places) + len(table.skipped), strict)
    return fitted, used


def _save_own_model(folder: Path, encoder: "PlaceEncoder", facts: dict[str, Any], source: str | None) -> None:
    """Write a model of this package with its projection, and its card."""
    name = "the model that comes with d2vpr-hf" if source in (None, EMBEDDED_NAME) else Path(source).name
    kind = "whitening" if facts["whiten"] else "PCA"
    form = " that keep their aspect (`keep_aspect=True`)" if facts.get("keep_aspect") else ""
    card = CardFacts(
        summary=f"{name}, with {kind} of its descriptors to {facts['dim']} numbers.",
        license="apache-2.0" if source in (None, EMBEDDED_NAME) else "unknown",
        license_note=f"The licence of {name}.",
        training_data=f"The projection: {len(facts['photos'])} photos{form}. The rest: see {name}.",
        base_model=None if source in (None, EMBEDDED_NAME) else stated_base_model(source),
    )
    encoder.model.save_pretrained(folder)
    encoder.processor.save_pretrained(folder)
    write_card(folder, encoder.model, card, origin=name)


def _write(out: Path, facts: dict[str, Any], save: Callable[[Path], None]) -> None:
    """Write the model folder to a scratch folder first, so that a failure leaves nothing."""
    with new_folder(out) as folder:
        save(folder)
        write_file(folder / PROJECTION_FILE, json.dumps({"format_version": 1} | facts, indent=1) + "\n")
