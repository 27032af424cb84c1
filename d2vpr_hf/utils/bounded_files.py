"""Read JSON, YAML and zip entries of others: what they take is bounded by the size of the file, and errors are ValueErrors."""

import itertools
import json
import re
import zipfile
from typing import Any

_FREE_BYTES = 64 << 20  # contents of this size are read whatever their file states
_MAX_DEPTH = 200  # of brackets in YAML
_MAX_RATIO = 200  # of the size of contents to that of their compressed form; photos, numbers and texts have less


def parse_json(content: str | bytes) -> Any:
    """Return the values of a JSON text.

    Raises:
        ValueError: If it is not JSON, or nested too deeply for Python, which raises RecursionError.
    """
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def parse_yaml(text: str) -> Any:
    """Return the values of a YAML text without aliases: merged aliases make gigabytes of a few lines.

    Raises:
        ValueError: If it is not YAML, has an alias, or is nested too deeply.
    """
    import yaml

    depths = itertools.accumulate((1 if bracket in "[{" else -1) for bracket in re.findall(r"[\[\]{}]", text))
    if max(depths, default=0) > _MAX_DEPTH:  # reading it would take hours
        raise ValueError(f"it is nested more than {_MAX_DEPTH} times")

    class PlainLoader(yaml.SafeLoader):
        """Loader that reads no aliases."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise ValueError("it has aliases, which are not read")
            return super().compose_node(parent, index)

    try:
        return yaml.load(text, Loader=PlainLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split()) or "it is nested too deeply") from error


def check_entry(entry: zipfile.ZipInfo) -> None:
    """Check an entry of an archive before it is read.

    Raises:
        ValueError: If it is packed by another method than `stored` or `deflate`, or states a size that no plain content has.
    """
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"its entry {entry.filename[:60]!r} is packed by a method that is not read")
    check_stated_size(entry.file_size, entry.compress_size)


def check_stated_size(stated: int, stored: int) -> None:
    """Raise ValueError if contents are stated to be larger than their stored form can give."""
    if stated > max(_FREE_BYTES, _MAX_RATIO * stored):
        raise ValueError(f"it states {stated:,} bytes of content, and {stored:,} bytes are stored")
