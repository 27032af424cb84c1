"""Check values that were read from JSON against the annotations of the objects that they become."""

import math
import types
import typing
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_LARGEST_INT = 2**63 - 1


def has_type(value: Any, annotation: Any) -> bool:
    """Return whether a value has the type of an annotation, its parts included.

    Numbers must be finite and fit into 64 bits. A tuple may be a list, as in JSON. Of a `TypedDict`, further keys are allowed.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(has_type(value, argument) for argument in arguments)
    if origin is Literal:
        return isinstance(value, str) and value in arguments
    if origin is list:
        return isinstance(value, list) and all(has_type(item, arguments[0]) for item in value)
    if origin is tuple:
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis and isinstance(value, list | tuple) else arguments
        return isinstance(value, list | tuple) and len(value) == len(kinds) and all(map(has_type, value, kinds))
    if origin is dict:
        return isinstance(value, dict) and all(has_type(part, arguments[1]) for part in value.values())
    if typing.is_typeddict(annotation):
        return isinstance(value, dict) and not wrong_keys(value, annotation)
    if annotation is float and isinstance(value, float):
        return math.isfinite(value)
    if annotation in (int, float):
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST_INT
    return value is None if annotation in (None, types.NoneType) else isinstance(value, annotation)


def wrong_keys(values: dict[str, Any], kind: Any) -> list[str]:
    """Return the keys of a dataclass or a `TypedDict` whose values have wrong types, or are missing in a `TypedDict`."""
    required: frozenset[str] = getattr(kind, "__required_keys__", frozenset())
    hints = get_type_hints(kind)
    return [
        key
        for key, hint in hints.items()
        if (key in values and not has_type(values[key], hint)) or (key in required - set(values))
    ]


def check_types(instance: Any) -> None:
    """Raise ValueError that names the fields of a dataclass whose values have wrong types."""
    wrong = wrong_keys({key: getattr(instance, key) for key in type(instance).__dataclass_fields__}, type(instance))
    if wrong:
        raise ValueError(f"{', '.join(wrong)} of a wrong type")
