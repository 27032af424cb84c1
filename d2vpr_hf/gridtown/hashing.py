"""Random numbers that are hashes of whole numbers, so that they do not depend on device, order or batch."""

import torch

_FACTORS = (0x2545F491, 0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35, 0x27D4EB2F)


def hash_unit(*parts: torch.Tensor | int) -> torch.Tensor:
    """Hash whole numbers, broadcast against each other, to a float32 in [0, 1)."""
    mixed: torch.Tensor | int = 0x3C6EF372
    for part, factor in zip(parts, _FACTORS, strict=False):
        mixed = (mixed ^ part) * factor
        mixed = (mixed ^ ((mixed & 0xFFFFFFFF) >> 15)) & 0xFFFFFFFF
    assert isinstance(mixed, torch.Tensor), "at least one part is a tensor"
    mixed = (mixed * 0x7FEB352D) & 0xFFFFFFFF
    return ((mixed ^ (mixed >> 14)) & 0xFFFFFF).float() * (1 / (1 << 24))
