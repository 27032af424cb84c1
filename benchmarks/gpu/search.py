"""Part (e): exact search and search by bits of descriptors on a GPU, by torch's products.

Descriptors are drawn: ten of each place, with a cosine of 0.64 between two of a place. Bits are signs after a random rotation;
the rows that share most of them with a query are compared exactly, as in the store `bits`. Where FAISS has GPU kernels, its
exact search is timed too.
"""

import importlib.util
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu.part import Setting
from benchmarks.network_timing import alternate, finished

COUNT, WIDTH = 1_000_000, 512
QUERIES = (1, 100)
NEIGHBOURS, CANDIDATES = 10, 1000
COSINE = 0.64


def measure(setting: Setting) -> None:
    """Measure milliseconds of a search, and the share of the exact neighbours that bits find."""
    count, width = (2000, 64) if setting.tiny else (COUNT, WIDTH)
    database, queries = draw(count, width, max(QUERIES), setting.device)
    rotation = torch.linalg.qr(torch.randn(width, width, device=setting.device))[0].half()
    signs = to_signs(database, rotation)
    setting.note("descriptors", {"count": count, "width": width, "cosine": COSINE})
    exact_rows = exact(queries, database)
    bit_rows = by_bits(queries, database, rotation, signs)
    shared = (exact_rows.unsqueeze(2) == bit_rows.unsqueeze(1)).any(dim=2).float().mean()
    setting.note("recall@10 of bits", float(shared))
    rounds = 2 if setting.tiny else 20
    for number in QUERIES:
        some = queries[:number]
        calls: dict[str, Callable[[], Any]] = {
            "exact": lambda some=some: finished(exact(some, database)),
            "bits": lambda some=some: finished(by_bits(some, database, rotation, signs)),
        }
        setting.note(f"{number} queries", alternate(calls, rounds))
    if setting.on_gpu:
        setting.note("FAISS", time_faiss(queries, database, rounds))


def draw(count: int, width: int, num_queries: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw descriptors (N, D) of unit length in float16, ten of each place, and queries (Q, D) of some of the places."""
    generator = torch.Generator(device).manual_seed(0)
    places = torch.randn(count // 10, width, generator=generator, device=device)
    noise = (1 / COSINE - 1) ** 0.5

    def photograph(places: torch.Tensor) -> torch.Tensor:
        photos = places + noise * torch.randn(places.shape, generator=generator, device=device)
        return torch.nn.functional.normalize(photos, dim=1).half()

    database = torch.stack([photograph(places) for _ in range(10)], dim=1).flatten(0, 1)
    return database, photograph(places[:: len(places) // num_queries][:num_queries])


def exact(queries: torch.Tensor, database: torch.Tensor) -> torch.Tensor:
    """Return the rows (Q, 10) of the most similar descriptors."""
    return (queries @ database.T).topk(NEIGHBOURS, dim=1).indices


def to_signs(descriptors: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    """Return the signs (N, D) of rotated descriptors as -1 and 1, in float16: their products count equal bits."""
    return ((descriptors @ rotation) > 0).half() * 2 - 1


def by_bits(queries: torch.Tensor, database: torch.Tensor, rotation: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
    """Return the rows (Q, 10) of the most similar descriptors among those that share most bits."""
    count = min(CANDIDATES, len(database))
    candidates = (to_signs(queries, rotation) @ signs.T).topk(count, dim=1).indices  # (Q, R)
    similarities = torch.einsum("qd,qrd->qr", queries, database[candidates])
    return candidates.gather(1, similarities.topk(NEIGHBOURS, dim=1).indices)


def time_faiss(queries: torch.Tensor, database: torch.Tensor, rounds: int) -> dict[str, Any]:
    """Return the time of FAISS's exact search on a GPU, or the reason why there is none."""
    if importlib.util.find_spec("faiss") is None:
        return {"not measured": "FAISS is not installed"}
    import faiss

    if not hasattr(faiss, "StandardGpuResources"):
        return {"not measured": "this FAISS has no GPU kernels"}
    index = faiss.GpuIndexFlatIP(faiss.StandardGpuResources(), database.shape[1])
    index.add(database.float().cpu().numpy())
    arrays = {number: queries[:number].float().cpu().numpy() for number in QUERIES}
    return alternate({f"{n} queries": lambda n=n: index.search(arrays[n], NEIGHBOURS) for n in QUERIES}, rounds)
