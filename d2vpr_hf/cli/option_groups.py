"""Groups of options that several commands take: a dataclass whose fields are annotated as a command's parameters are."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import is_dataclass
from inspect import Parameter
from typing import Any


def spread_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Show typer the fields of a command's groups as parameters of its own.

    Args:
        command: A function; each of its parameters that is annotated with a dataclass stands for the fields of that dataclass,
            at its place among the others.

    Returns:
        A function of the same name and docstring that takes all the fields by name, and calls the command with groups made
        of them.
    """
    own = inspect.signature(command, eval_str=True).parameters
    groups: dict[str, Any] = {name: it.annotation for name, it in own.items() if is_dataclass(it.annotation)}

    @functools.wraps(command)
    def spread(**values: Any) -> None:
        command(**{name: _take(groups[name], values) if name in groups else values[name] for name in own})

    fields = (field for name in own for field in (_fields(groups[name]) if name in groups else [own[name]]))
    by_name = [field.replace(kind=Parameter.KEYWORD_ONLY) for field in fields]
    spread.__signature__ = inspect.Signature(by_name)  # type: ignore[attr-defined]
    return spread


def _fields(group: Callable[..., Any]) -> Iterable[Parameter]:
    return inspect.signature(group, eval_str=True).parameters.values()


def _take(group: Callable[..., Any], values: Mapping[str, Any]) -> Any:
    return group(**{field.name: values[field.name] for field in _fields(group)})
