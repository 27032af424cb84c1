"""The encoder of a Space: it runs the network for searches and explanations, on a CPU, a GPU or ZeroGPU."""

from collections.abc import Callable, Sequence
from typing import Any

from d2vpr_hf.encoders.place_encoder import PlaceEncoder, is_one_photo
from d2vpr_hf.encoders.protocol import EncodedPhotos, Progress, ReceiveBatch
from d2vpr_hf.explanation import Explanation, PatchSimilarity, explain_match
from d2vpr_hf.model_info.model_options import DEFAULT_TEST_TIME
from d2vpr_hf.readers import PhotoSource
from d2vpr_hf.space.zero_gpu import is_zero_gpu, on_gpu

_START_SECONDS = 15  # of a process that gets the weights
_PHOTOS_PER_SECOND = 10  # an assumption for large photos, not measured on ZeroGPU


class SpaceEncoder(PlaceEncoder):
    """A [`PlaceEncoder`] that explains matches too."""

    def explain(self, query: PhotoSource, match: PhotoSource) -> Explanation | PatchSimilarity:
        """Explain the similarity of two photos; see [`explain_match`]."""
        return explain_match(self, query, match)


class ZeroGPUEncoder(SpaceEncoder):
    """An encoder whose network runs on ZeroGPU: each call asks for a GPU once, for all its photos.

    It must be made before the Space is launched: the package `spaces` then keeps the weights for the processes with a GPU.
    """

    def __init__(self, *arguments: Any, device: str = "cuda", **options: Any) -> None:
        super().__init__(*arguments, device=device, **options)
        self._call_on_gpu = on_gpu(self._call, _seconds)  # one function, so that one process has the weights

    def encode(
        self,
        photos: Any,
        progress: Progress | None = None,
        *,
        order: Sequence[int] | None = None,
        on_batch: ReceiveBatch | None = None,
    ) -> EncodedPhotos:
        """Encode photos, as [`PlaceEncoder.encode`]; the callbacks are called once, after the last photo."""
        photos = [photos] if is_one_photo(photos) else list(photos)
        encoded: EncodedPhotos = self._call_on_gpu(PlaceEncoder.encode, photos, order=order)
        if on_batch is not None:
            on_batch(encoded)
        if progress is not None:
            progress(len(photos))
        return encoded

    def encode_queries(
        self, photos: Any, progress: Progress | None = None, *, order: Sequence[int] | None = None
    ) -> EncodedPhotos:
        """Encode photos as queries, as [`PlaceEncoder.encode_queries`]; `progress` is called once, after the last photo."""
        if self.test_time == DEFAULT_TEST_TIME:
            return self.encode(photos, progress, order=order)
        photos = [photos] if is_one_photo(photos) else list(photos)
        encoded: EncodedPhotos = self._call_on_gpu(PlaceEncoder.encode_queries, photos, order=order)
        if progress is not None:
            progress(len(photos))
        return encoded

    def explain(self, query: PhotoSource, match: PhotoSource) -> Explanation | PatchSimilarity:
        """Explain the similarity of two photos."""
        explanation: Explanation | PatchSimilarity = self._call_on_gpu(explain_match, query, match)
        return explanation

    def _call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        return function(self, *arguments, **options)


def space_encoder_class() -> type[SpaceEncoder]:
    """Return the class of this Space's encoder."""
    return ZeroGPUEncoder if is_zero_gpu() else SpaceEncoder


def _seconds(function: Callable[..., Any], photos: Any, *arguments: Any, **options: Any) -> int:
    """Return the time to ask for: visitors' quotas are compared with it, and short requests wait less."""
    count = len(photos) if isinstance(photos, list) else 2
    return _START_SECONDS + count // _PHOTOS_PER_SECOND
