"""Groups of options: a command takes a dataclass, and the fields of the dataclass become options of the command."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import is_dataclass
from inspect import Parameter
from typing import Annotated, Any

import typer

QuietOption = Annotated[bool, typer.Option("--quiet", help="Print results and errors only, without progress and warnings.")]


def spread_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command whose signature has the fields of its groups as parameters, as typer needs them.

    Args:
        command: A function. A parameter that is annotated with a dataclass is a group: the annotated fields of the dataclass
            take its place among the other parameters. Each command gets `--quiet`.

    Returns:
        A function with the same name and docstring. It takes all parameters by name, makes the groups and calls `command`.
    """
    parameters = inspect.signature(command, eval_str=True).parameters
    groups: dict[str, Any] = {name: it.annotation for name, it in parameters.items() if is_dataclass(it.annotation)}
    fields = {name: inspect.signature(group, eval_str=True).parameters for name, group in groups.items()}

    @functools.wraps(command)
    def spread(quiet: bool = False, **values: Any) -> None:  # the command's class reads `quiet`
        for name, group in groups.items():
            values[name] = group(**{field: values.pop(field) for field in fields[name]})
        command(**values)

    spread_parameters: list[Parameter] = []
    for name, parameter in parameters.items():
        spread_parameters += fields[name].values() if name in groups else [parameter]
    spread_parameters.append(Parameter("quiet", Parameter.KEYWORD_ONLY, default=False, annotation=QuietOption))
    by_name = [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in spread_parameters]
    spread.__signature__ = inspect.Signature(by_name)  # type: ignore[attr-defined]
    return spread
