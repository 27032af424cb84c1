"""The index that the service searches, and its replacement while requests run.

When the index on the disk has changed, it is opened as a new generation next to the old one. Requests keep the generation that
they began with, and its memory is freed with the last of them.
"""

from __future__ import annotations

import functools
import io
import logging
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from d2vpr_hf.encoders import Encoder, encode_queries
from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.index.manifest import MANIFEST
from d2vpr_hf.localization import Calibration, load_calibration
from d2vpr_hf.localization.localize_photos import warn_of_other_form
from d2vpr_hf.places.filters import Mask, PlaceFilter
from d2vpr_hf.retrieval.compatibility import check_encoder

logger = logging.getLogger(__name__)

OpenIndex = Callable[[], PlaceIndex]
LoadEncoder = Callable[[PlaceIndex], Encoder | None]

_Stamp = tuple[int, int, int]  # time, size and number of a file


class Generation:
    """A state of the index, with its encoder and calibration.

    Args:
        number: 1 for the first one.
        index: The index.
        encoder: Encoder of queries; `None` for an index of descriptors that another program made.
    """

    def __init__(self, number: int, index: PlaceIndex, encoder: Encoder | None) -> None:
        if encoder is not None:
            check_encoder(index, encoder, for_queries=True)
        self.number, self.index = number, index
        self.encoder = encoder
        self.calibration: Calibration | None = load_calibration(index, encoder)
        if encoder is not None:
            warn_of_other_form(self.calibration, encoder)
        self.allowed = functools.lru_cache(maxsize=64)(self._allowed)

    def _allowed(self, places: PlaceFilter) -> Mask | None:
        """Return the mask (N,) of the rows that pass a filter; `None` for all. `allowed` keeps the latest masks."""
        return places.allowed(self.index.places)

    def warm_up(self, *, with_encoder: bool = True) -> None:
        """Encode a picture and search for it, so that the first request finds everything loaded.

        Args:
            with_encoder: Whether to run the encoder too; one that another thread uses must be left alone.

        Raises:
            ValueError: If the index has no photos.
        """
        if not len(self.index):
            raise ValueError(f"The index {self.index.folder} has no photos. Add some with `d2vpr index` or `d2vpr add`.")
        descriptors = np.zeros((1, self.index.settings.descriptor_dim), np.float32)
        descriptors[0, 0] = 1
        if self.encoder is not None and with_encoder:
            descriptors = encode_queries(self.encoder, [small_picture()]).descriptors
        self.index.search(descriptors, 1)
        self.index.places.column("path")  # maps all files of places: a writer may remove them while requests run


def small_picture() -> bytes:
    """Return the file of a small picture."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


class ServedIndex:
    """The present generation of an index.

    Args:
        folder: The folder whose manifest shows changes; `None` for an index that never changes, such as one in the Hub's cache.
        open_index: Opens the index.
        load_encoder: Loads the encoder of an index. It is called again only if the model of the index has changed.

    Attributes:
        current: The generation for new requests.
        failed: Number of failed attempts to open a changed index.
    """

    def __init__(self, folder: Path | None, open_index: OpenIndex, load_encoder: LoadEncoder) -> None:
        self._manifest = None if folder is None else folder / MANIFEST
        self._open_index, self._load_encoder = open_index, load_encoder
        self.failed = 0
        self._has_warned = False
        self._stamp = self._read_stamp()
        index = open_index()
        self.current = Generation(1, index, load_encoder(index))
        self.current.warm_up()

    def reload_if_changed(self) -> bool:
        """Return whether a new generation is there, after opening the index again if it has changed on the disk.

        An index that is being updated is opened when the update is complete. One that cannot be opened leaves the present
        generation, and the next call tries again.
        """
        stamp = self._read_stamp()
        if stamp is None or stamp == self._stamp:
            return False
        try:
            index = self._open_index()
            if index.complete:
                self.current = self._next_generation(index)
        except Exception as error:  # whatever a library raises: requests must still be answered
            self.failed += 1
            if not self._has_warned:
                logger.warning("The changed index cannot be opened; the service keeps its old state. %s", error)
            self._has_warned = True
            return False
        self._stamp, self._has_warned = stamp, False
        return self.current.index is index

    def _next_generation(self, index: PlaceIndex) -> Generation:
        """Return the generation that follows the present one, ready to answer."""
        old = self.current
        same_model = index.settings.fingerprint == old.index.settings.fingerprint
        same_options = index.settings.model_options == old.index.settings.model_options
        encoder = old.encoder if same_model and same_options else self._load_encoder(index)
        generation = Generation(old.number + 1, index, encoder)
        generation.warm_up(with_encoder=encoder is not old.encoder)
        return generation

    def _read_stamp(self) -> _Stamp | None:
        if self._manifest is None:
            return None
        try:
            state = self._manifest.stat()
        except OSError:  # the folder is being replaced
            return None
        return state.st_mtime_ns, state.st_size, state.st_ino


def watch(served: ServedIndex, seconds: float, stop: threading.Event, report: Callable[[bool], None]) -> None:
    """Look for changes of an index until `stop` is set.

    Args:
        served: The index.
        seconds: Time between two looks.
        stop: Ends the loop.
        report: Called after each look, with whether a new generation is there.
    """
    while not stop.wait(seconds):
        report(served.reload_if_changed())
