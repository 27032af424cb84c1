"""Write the embedded model: `python d2vpr_hf/assets/make_tiny.py`.

Its weights are drawn from a seed and never trained. It stands in where nothing can be downloaded: it runs the whole way from
photo to match, but it recognises no place.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from d2vpr_hf.cards import CardFacts, write_card
from d2vpr_hf.modeling import D2VPRConfig, D2VPRImageProcessor, D2VPRModel

SEED = 1
CONFIG: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": 112,
    "recovery_size": 96,
    "offset_hidden_size": 48,
    "fusion_hidden_size": 32,
    "position_encoding_hidden_size": 16,
}
FACTS = CardFacts(
    summary="A tiny D²-VPR with seeded weights that were never trained, for demonstrations and tests.",
    license="apache-2.0",
    license_note="Apache-2.0, code and weights.",
    training_data="nothing",
)


@contextlib.contextmanager
def without_code() -> Iterator[None]:
    """Keep `save_pretrained` from copying the code: this model is loaded with the package around it."""
    classes: tuple[Any, ...] = (D2VPRConfig, D2VPRModel, D2VPRImageProcessor)
    names = [part._auto_class for part in classes]
    try:
        for part in classes:
            part._auto_class = None
        yield
    finally:
        for part, name in zip(classes, names, strict=True):
            part._auto_class = name


def make_tiny(folder: Path) -> None:
    """Write the model folder."""
    torch.manual_seed(SEED)
    model = D2VPRModel(D2VPRConfig(**CONFIG))
    processor = D2VPRImageProcessor()
    with without_code():
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    write_card(folder, model, FACTS, origin=f"seed {SEED}, by d2vpr_hf/assets/make_tiny.py")


if __name__ == "__main__":
    make_tiny(Path(__file__).parent / "d2vpr-tiny")
