"""The name and the folder of the embedded model. This module loads no library."""

from pathlib import Path

EMBEDDED_MODEL = Path(__file__).parents[1] / "assets" / "d2vpr-tiny"
EMBEDDED_NAME = "embedded"  # names the model in this package wherever a folder or Hub id may stand
