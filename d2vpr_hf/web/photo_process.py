"""The process that looks at strangers' photos: it reads paths from its input, and answers each with a line of JSON.

A decoder may take minutes for a small file, ask for gigabytes, or crash. A process of its own has limits and can be
ended. The answer is `{"size": [width, height]}` or `{"problem": reason}`.

    python -m d2vpr_hf.web.photo_process CPU_SECONDS MAX_PIXELS
"""

import contextlib
import json
import signal
import sys
from pathlib import Path
from typing import Any

from d2vpr_hf.readers.folder import read_place
from d2vpr_hf.readers.photos import UnreadablePhotoError, open_header, open_photo

_MEMORY = 3_000_000_000  # bytes; a photo of 50 megapixels takes some copies of 200 MB
_TOO_LARGE = "it needs too much memory"


def look_at(photo: Path, max_pixels: int) -> dict[str, Any]:
    """Read the metadata and all pixels of a photo; return its width and height, or its problem.

    Pixels of a photo with `max_pixels` or more are not read.
    """
    try:
        with open_header(photo, will_decode=True) as image:
            size = image.size
        if size[0] * size[1] < max_pixels:
            with contextlib.suppress(ValueError):  # the position cannot be used, but reading it ended
                read_place(photo)
            open_photo(photo)
    except UnreadablePhotoError as error:
        return {"problem": str(error)}
    except MemoryError:
        return {"problem": _TOO_LARGE}
    return {"size": size}


def main() -> None:
    """Answer until the input ends."""
    cpu_seconds, max_pixels = float(sys.argv[1]), int(sys.argv[2])
    _limit_memory()
    for line in sys.stdin:
        _limit_time(cpu_seconds)
        answer = look_at(Path(json.loads(line)), max_pixels)
        _limit_time(0)
        print(json.dumps(answer), flush=True)


def _limit_memory() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):  # Windows has no such limit, macOS does not keep it
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_time(seconds: float) -> None:
    """Let the system end this process after some seconds on a processor, also inside a decoder; 0 takes the limit away."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


if __name__ == "__main__":
    main()
