"""Localization of the photos of a sequence in an index; the command line calls these functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from typing import TYPE_CHECKING

from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.localization.calibration import Calibration
from d2vpr_hf.localization.localize import PRECISION
from d2vpr_hf.localization.localize_photos import check_pair_of, warn_of_other_form
from d2vpr_hf.retrieval.search_photos import SearchResult, iterate_search
from d2vpr_hf.sequences.frame_order import Frame
from d2vpr_hf.sequences.localizer import SequenceAnswer, SequenceLocalizer, SequenceSettings, num_searched

if TYPE_CHECKING:
    from d2vpr_hf.encoders import Encoder, Progress
    from d2vpr_hf.places.filters import Mask


def localize_sequence(
    index: PlaceIndex,
    frames: Sequence[Frame],
    encoder: Encoder,
    calibration: Calibration | None = None,
    settings: SequenceSettings = SequenceSettings(),  # noqa: B008 - the default is immutable
    *,
    online: bool = False,
    precision: float = PRECISION,
    allowed: Mask | None = None,
    strict: bool = False,
    progress: Progress | None = None,
    group_size: int | None = None,
) -> Iterator[SequenceAnswer]:
    """Localize the photos of a sequence in an index.

    Args:
        index: The index of the map.
        frames: The frames in their order, from [`read_frames`] or [`list_frames`].
        encoder: Encoder with the index's model.
        calibration: Calibration from [`load_calibration`]; without one, answers have neither confidence nor radius.
        settings: Settings of the model.
        online: Whether each answer follows from the frames up to its own only, and is yielded at once; otherwise from all.
        precision: As for [`SequenceLocalizer`].
        allowed: (N,) mask of the rows to search; `None` for all rows.
        strict: Whether a photo that cannot be read is an error. Without it, it is counted, and time and odometry continue.
        progress: Called with the number of photos that were just encoded.
        group_size: As for [`iterate_search`].

    Raises:
        ValueError: If the encoder has another model than the index or the calibration, or frames are not in order.
    """
    check_pair_of(calibration, index, encoder)
    warn_of_other_form(calibration, encoder)
    results = iterate_search(
        index,
        [frame.photo for frame in frames],
        encoder,
        top_k=num_searched(settings, calibration),
        allowed=allowed,
        strict=strict,
        progress=progress,
        group_size=group_size,
    )
    localizer = SequenceLocalizer(index, calibration, settings, precision)
    return localize_results(localizer, results, frames, online=online)


def localize_results(
    localizer: SequenceLocalizer,
    results: Iterable[SearchResult],
    frames: Iterable[Frame] | None = None,
    *,
    online: bool = False,
) -> Iterator[SequenceAnswer]:
    """Localize the results of searches as frames of a sequence.

    Args:
        localizer: A localizer without frames.
        results: The results in the order of the frames.
        frames: Times and odometry of the frames; `None` if nothing is known.
        online: As for [`localize_sequence`].
    """
    for result, frame in zip(results, repeat(None) if frames is None else frames, strict=False):
        step = {} if frame is None else {"seconds": frame.seconds, "metres": frame.metres, "turn": frame.turn}
        if result.error is None:
            answer = localizer.add_matches(result.matches, query=str(result.query), **step)
        else:
            answer = localizer.skip(result.error, query=str(result.query), **step)
        if online:
            yield answer
    if not online:
        yield from localizer.smooth()
