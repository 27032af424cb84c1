"""Flags in place of parameters: the library's errors and warnings name parameters, and those of the command line name flags."""

from __future__ import annotations

import ast
import logging
import re
import shlex
import signal
import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any

from typer.core import TyperCommand

from d2vpr_hf.cli.endings import INTERRUPTIONS, continuation
from d2vpr_hf.cli.terminal import is_quiet
from d2vpr_hf.utils.interrupts import InterruptedBySignalError, exit_status, signal_name
from d2vpr_hf.utils.printable import printable_text


class CommandError(ValueError):
    """A mistake that the user can correct; its message names flags."""


class FlagCommand(TyperCommand):
    """A command that refuses options that are given twice, and names its flags in errors and warnings of the library."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments and options.

        Raises:
            UsageError: If an option for one value is given twice: the parser would use the last value and drop the others.
        """
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        counts = Counter(parameter for parameter in given if parameter.param_type_name == "option")
        for option, count in counts.items():
            if count > 1 and not option.multiple:
                ctx.fail(f"{'/'.join([*option.opts, *option.secondary_opts])} is given {count} times. Give it once.")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command.

        Raises:
            CommandError: In place of errors that the user can correct.
        """
        parameters = {str(parameter.name): parameter for parameter in self.params}
        quiet = bool(ctx.params.get("quiet"))
        is_quiet.set(quiet)
        handler = logging.StreamHandler()
        handler.setFormatter(_FlagFormatter(parameters))
        handler.setLevel(logging.ERROR if quiet else logging.WARNING)
        handler.addFilter(lambda record: record.name != INTERRUPTIONS)  # the line of the interrupt has the same text
        logging.basicConfig(level=logging.WARNING, handlers=[handler])
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:  # typer would print "Aborted!" and end with status 1
            number = interrupt.number if isinstance(interrupt, InterruptedBySignalError) else signal.SIGINT
            advice = name_flags(continuation(str(ctx.command.name), interrupt), parameters)
            sys.stderr.write(printable_text(f"d2vpr: stopped by {signal_name(number)}. {advice[:1].upper()}{advice[1:]}\n"))
            sys.exit(exit_status(number))
        except BrokenPipeError:
            raise  # typer ends the program without a message
        except ModuleNotFoundError as error:  # of torch, at the top of a module that runs models with weights
            from d2vpr_hf.utils.optional_imports import name_models_extra

            raise CommandError(str(name_models_extra(error))) from error
        except (ValueError, OSError, ImportError) as error:
            raise CommandError(printable_text(name_flags(str(error), parameters))) from error


class _FlagFormatter(logging.Formatter):
    """The text of warnings, with flags."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        super().__init__("%(message)s")
        self.parameters = parameters

    def format(self, record: logging.LogRecord) -> str:
        return printable_text(name_flags(super().format(record), self.parameters))


def name_flags(message: str, parameters: Mapping[str, Any]) -> str:
    """Write flags in place of a command's parameters in a message.

    Args:
        message: Parameters stand between backticks: `dtype`, `batch_size=8`, `backend="torch", precision="fp32"`.
        parameters: The command's parameters by name. Between other backticks, such as of commands, nothing is changed.

    Returns:
        The message with flags: `overwrite=True` becomes `--overwrite`, `batch_size=8` becomes `--batch-size 8`, `split=...`
        becomes `--split SPLIT`, `columns={"image": "photo"}` becomes `--column image=photo`, and the name of an argument,
        `photos`, becomes its name in the help, `PHOTOS`.
    """
    return re.sub(r"`([^`\n]+)`", lambda code: f"`{' '.join(_flags(code[1], parameters)) or code[1]}`", message)


def _flags(code: str, parameters: Mapping[str, Any]) -> list[str]:
    """Return the flags that stand for parameters, or none if the code is something else."""
    try:
        call = ast.parse(f"f({code})", mode="eval").body
    except SyntaxError:
        return []
    assert isinstance(call, ast.Call)
    values: dict[str, ast.expr | None] = {ast.unparse(name): None for name in call.args}
    values |= {str(keyword.arg): keyword.value for keyword in call.keywords}
    if not parameters.keys() >= values.keys():
        return []
    return [flag for name, value in values.items() for flag in _flag(parameters[name], value)]


def _flag(parameter: Any, value: ast.expr | None) -> list[str]:
    """Return a parameter's flag with its value; `None` stands for a parameter without a value."""
    metavar = parameter.metavar or parameter.name.upper()
    if parameter.param_type_name == "argument":
        return [metavar]
    flag = next(option for option in parameter.opts if option.startswith("--"))
    if value is None or ast.unparse(value) == "True":
        return [flag]
    if ast.unparse(value) in ("False", "None"):
        return parameter.secondary_opts[:1]
    if ast.unparse(value) == "...":
        return [f"{flag} {metavar}"]
    if isinstance(value, ast.Dict):
        return [f"{flag} {_text(key)}={_text(item)}" for key, item in zip(value.keys, value.values, strict=True) if key]
    if isinstance(value, ast.List | ast.Tuple):
        return [f"{flag} {','.join(map(_text, value.elts))}"]
    return [f"{flag} {_text(value)}"]


def _text(value: ast.expr) -> str:
    """Return a value as a shell takes it."""
    return shlex.quote(value.value) if isinstance(value, ast.Constant) and isinstance(value.value, str) else ast.unparse(value)
