"""A warning that the embedded model is small and has seen few real places, for people who use it without naming it.

Importing this module loads no torch.
"""

import logging
import re
from collections.abc import Iterable
from itertools import islice

logger = logging.getLogger(__name__)

_NUM_READ = 1000  # names; the photos of one map come from one source
# the names that `d2vpr simulate` gives: `@...@SEED-PLACE-HEADING-VISIT@...@.jpg`, and `GridtownSEED_...` in GSV-Cities' layout
_GRIDTOWN = re.compile(r"@(?:[^@/]*@){6}\d+-\d+-\d+-\d+@(?:[^@/]*@){7}\.jpg|Gridtown\d+_[^/]*\.jpg")


def is_gridtown_photo(path: str) -> bool:
    """Return whether a photo has a name of the simulated streets that the embedded model was trained for."""
    return _GRIDTOWN.fullmatch(path.rpartition("/")[2]) is not None


def warn_of_embedded_model(photos: Iterable[str] | None, *, is_indexed: bool = False, is_default: bool = True) -> None:
    """Log a warning of the limits of the embedded model on photos, unless all are simulated streets.

    Args:
        photos: Names of the photos, of which the first 1000 are read; `None` if they are not known.
        is_indexed: Whether they are in an index of the model already.
        is_default: Whether the model is used because no other is named.
    """
    if photos is not None and all(map(is_gridtown_photo, islice(photos, _NUM_READ))):
        return
    new_index = "`d2vpr index PHOTOS --model auto --out NEW` builds an index with a larger model"
    logger.warning(
        "The embedded model is small and has seen few real places: it misses many photos from another "
        "angle, season or time of day. "
        "%s; `d2vpr models` lists more.%s",
        new_index if is_indexed else "`--model auto` takes a larger model",
        " `--model embedded` hides this line." if is_default else "",
    )
