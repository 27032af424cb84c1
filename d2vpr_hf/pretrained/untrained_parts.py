"""Warn of models with parts that were never trained. This module loads no library."""

import logging
from collections.abc import Sequence

logger = logging.getLogger(__name__)


def warn_of_untrained_parts(name: object, parts: Sequence[str]) -> None:
    """Log a warning if parts of a model were drawn at random and never trained: it finds wrong places with high similarity.

    Args:
        name: The model's name, for the message.
        parts: Its parts that were never trained.
    """
    if parts:
        logger.warning(
            "The model %s has parts that were drawn at random and never trained: %s. Places that are found with it are "
            "random, however high their similarity. Train it first: docs/training.md.",
            name,
            ", ".join(parts),
        )
