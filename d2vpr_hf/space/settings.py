"""Settings of the Space, read from environment variables."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from d2vpr_hf.maps import TileSource


@dataclass(frozen=True)
class Settings:
    """The model, the map and the folders of a Space.

    Attributes:
        model: Folder or Hub id, with or without `@revision` (`D2VPR_MODEL`); `None` for the model of the index, or the embedded
            model.
        index: Folder or Hub id, with or without `@revision` (`D2VPR_INDEX`); `None` for a simulated town.
        cache: Folder that is kept between starts (`D2VPR_CACHE`).
        tiles: Tiles below the map (`D2VPR_TILES`, with `D2VPR_TILES_ATTRIBUTION`); `None` for a map without tiles.
    """

    model: str | None
    index: str | None
    cache: Path
    tiles: TileSource | None


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings; an empty variable counts as not set.

    Raises:
        ValueError: If tiles have no attribution, or their address is not a template.
    """
    home = environment.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Settings(
        environment.get("D2VPR_MODEL") or None,
        environment.get("D2VPR_INDEX") or None,
        Path(environment.get("D2VPR_CACHE") or Path(home) / "d2vpr-space"),
        _tiles(environment.get("D2VPR_TILES"), environment.get("D2VPR_TILES_ATTRIBUTION")),
    )


def _tiles(template: str | None, attribution: str | None) -> TileSource | None:
    if not template:
        return None
    if not attribution:
        raise ValueError("D2VPR_TILES needs D2VPR_TILES_ATTRIBUTION, such as '© OpenStreetMap contributors'.")
    return TileSource(template, attribution)
