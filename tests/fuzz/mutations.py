"""Damage valid files in ways that parsers meet: flipped bits, cut, doubled and removed parts, numbers at their limits."""

import copy
import json
import random
import re
import struct
from collections.abc import Callable
from typing import Any

Mutation = Callable[[bytes, random.Random], bytes]

_MOST_BYTES = 1 << 18  # doubling must not make files grow over many rounds
_NEAR_END = 600  # bytes at both ends, which hold most headers and footers
_SIZES = {"B": 1, "H": 2, "I": 4, "Q": 8}
_NUMBERS = (0, 1, 2, 127, 128, 255, 256, 32767, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)
_DIGITS = re.compile(rb"-?\d+(?:\.\d+)?")
_TEXTS = (
    *(
        "",
        " ",
        "0",
        "-1",
        "1e309",
        "-1e309",
        "nan",
        "inf",
        "-0.0",
        "1e-320",
        "9" * 400,
        "18446744073709551616",
        "1_000",
        "0x10",
        "½",
    ),
    *(
        "\u0663\u0664",
        "\ufeff",
        "\0",
        "\x1b[2J",
        "\r",
        '"',
        "'",
        ",",
        ";",
        "\t",
        "=1+1",
        "../../etc/passwd",
        "/dev/zero",
        "file:///x",
    ),
    *(
        "http://localhost:1/x",
        "a" * 300,
        "@",
        "@@",
        "\ud800",
        "\U0001f600",
        "null",
        "true",
        "{}",
        "[]",
        "!!python/object:os.system",
    ),
)
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 2**31, 2**63, 2**64, -(2**63), 10**400, 0.5, 1e308, float("nan"), float("inf")),
    *(
        "",
        "x",
        "a" * 300,
        "../x",
        "/dev/zero",
        "user/model",
        "\ud800",
        [],
        {},
        [[]],
        [None],
        ["x"],
        {"x": 1},
        [0] * 50,
        {"": {}},
    ),
)


def mutate_bytes(content: bytes, draws: random.Random) -> bytes:
    """Damage a file of any format by one to eight small changes."""
    for _ in range(draws.choice((1, 1, 1, 2, 3, 8))):
        content = draws.choice(_CHANGES)(content, draws)[:_MOST_BYTES]
    return content


def mutate_text(content: bytes, draws: random.Random) -> bytes:
    """Damage a text of lines and cells: cells become difficult texts, lines move; or bytes change as in other files."""
    if draws.random() < 0.2:
        return mutate_bytes(content, draws)
    for _ in range(draws.choice((1, 1, 2, 4))):
        lines = content.splitlines(keepends=True) or [b""]
        row = draws.randrange(len(lines))
        cells = re.split(rb"([,;@:\t ]|\r?\n)", lines[row])
        kind = draws.randrange(5)
        if kind < 3:
            cells[draws.randrange(len(cells))] = draws.choice(_TEXTS).encode("utf-8", "surrogatepass")
        elif kind == 3:
            cells.insert(draws.randrange(len(cells) + 1), draws.choice(cells))
        lines[row : row + 1] = [b"".join(cells)] * draws.choice((1, 1, 1, 0, 2))
        content = b"".join(lines)[:_MOST_BYTES]
    return content


def mutate_json(content: bytes, draws: random.Random) -> bytes:
    """Damage a JSON file: values become others, of other types too, or are removed; or bytes change as in other files."""
    try:
        holder = [json.loads(content)]
    except (ValueError, RecursionError):
        holder = []
    if not holder or draws.random() < 0.2:
        return mutate_bytes(content, draws)
    for _ in range(draws.choice((1, 1, 2, 3))):
        _change_value(holder, draws)
    return json.dumps(holder[0], indent=2).encode("utf-8", "surrogatepass")


def _change_value(holder: list[Any], draws: random.Random) -> None:
    """Replace, remove or copy one value, at any depth, of the JSON values in a list."""
    places: list[tuple[Any, Any]] = []
    waiting: list[Any] = [holder]
    while waiting:
        parent = waiting.pop()
        for key in range(len(parent)) if isinstance(parent, list) else list(parent):
            places.append((parent, key))
            if isinstance(parent[key], list | dict):
                waiting.append(parent[key])
    parent, key = draws.choice(places)
    kind = draws.randrange(6)
    if kind == 0 and parent is not holder:
        del parent[key]
    elif kind == 1 and isinstance(parent, list) and parent is not holder:
        parent.append(copy.deepcopy(parent[key]))
    elif kind == 1 and isinstance(parent, dict):
        parent[draws.choice(_TEXTS)] = copy.deepcopy(parent[key])
    elif kind == 2 and isinstance(parent[key], int | float) and not isinstance(parent[key], bool):
        parent[key] = draws.choice((-parent[key], parent[key] + 1, parent[key] * 3, str(parent[key]), draws.choice(_NUMBERS)))
    else:
        parent[key] = copy.deepcopy(draws.choice(_VALUES))


def _position(content: bytes, draws: random.Random) -> int:
    """Draw a position, half of the time near one of the ends."""
    size = len(content)
    if size <= _NEAR_END or draws.random() < 0.5:
        return draws.randrange(size + 1)
    near = draws.randrange(_NEAR_END)
    return near if draws.random() < 0.5 else size - near


def _part(content: bytes, draws: random.Random) -> tuple[int, int]:
    start = _position(content, draws)
    return start, min(len(content), start + draws.choice((1, 2, 4, 8, 16, 64, 512)))


def _flip_bit(content: bytes, draws: random.Random) -> bytes:
    if not content:
        return content
    changed = bytearray(content)
    changed[min(_position(content, draws), len(content) - 1)] ^= 1 << draws.randrange(8)
    return bytes(changed)


def _cut(content: bytes, draws: random.Random) -> bytes:
    return content[: _position(content, draws)]


def _remove(content: bytes, draws: random.Random) -> bytes:
    start, end = _part(content, draws)
    return content[:start] + content[end:]


def _double(content: bytes, draws: random.Random) -> bytes:
    start, end = _part(content, draws)
    return content[:end] + content[start:end] * draws.choice((1, 1, 2, 100)) + content[end:]


def _move(content: bytes, draws: random.Random) -> bytes:
    start, end = _part(content, draws)
    rest = content[:start] + content[end:]
    target = _position(rest, draws)
    return rest[:target] + content[start:end] + rest[target:]


def _insert(content: bytes, draws: random.Random) -> bytes:
    start = _position(content, draws)
    return content[:start] + draws.randbytes(draws.choice((1, 2, 4, 16))) + content[start:]


def _write_limit(content: bytes, draws: random.Random) -> bytes:
    """Write a number at the limit of a type over some bytes, in either byte order."""
    kind, size = draws.choice(list(_SIZES.items()))
    number = draws.choice(_NUMBERS) % (1 << 8 * size)
    start = min(_position(content, draws), max(0, len(content) - size))
    return content[:start] + struct.pack(draws.choice("<>") + kind, number) + content[start + size :]


def _write_digits(content: bytes, draws: random.Random) -> bytes:
    """Replace a number that is written in digits."""
    numbers = list(_DIGITS.finditer(content[: 1 << 15]))
    if not numbers:
        return _write_limit(content, draws)
    match = draws.choice(numbers)
    return content[: match.start()] + str(draws.choice(_NUMBERS)).encode() + content[match.end() :]


_CHANGES = (_flip_bit, _flip_bit, _cut, _remove, _double, _move, _insert, _write_limit, _write_limit, _write_digits)
