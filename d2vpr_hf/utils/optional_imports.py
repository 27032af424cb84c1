"""Imports of optional libraries, which the extras of this package install."""

import importlib
import importlib.util
import sys
from types import ModuleType

MODEL_LIBRARIES = ("torch", "transformers")
_REPORTERS = {"openvino": "openvino_telemetry"}  # library: package by which it reports each import and conversion to its maker


def import_extra(module: str, extra: str) -> ModuleType:
    """Import an optional library.

    Raises:
        ImportError: If it is not installed, with the command that installs it.
    """
    try:
        return import_without_reports(module)
    except ImportError as error:
        raise _missing(module, extra, str(error)) from error


def import_without_reports(module: str) -> ModuleType:
    """Import a library, and nothing by which it would report its use to its maker.

    The library does without the package for reports, as if that were not installed. One that was imported before is unchanged.

    Raises:
        ImportError: If the library cannot be imported.
    """
    reporter = _REPORTERS.get(module)
    if reporter is None or module in sys.modules or reporter in sys.modules:
        return importlib.import_module(module)
    sys.modules[reporter] = None  # type: ignore[assignment] # Python's way to let an import fail
    try:
        return importlib.import_module(module)
    finally:
        del sys.modules[reporter]


def check_extra(module: str, extra: str) -> None:
    """Check that an optional library is installed, without importing it.

    Raises:
        ImportError: If it is not installed, with the command that installs it.
    """
    if importlib.util.find_spec(module) is None:
        raise _missing(module, extra, "it is not installed")


def check_models(reason: str) -> None:
    """Check that the libraries which run models with weights are installed, without importing them.

    Args:
        reason: The reason why they are needed, as the beginning of a sentence.

    Raises:
        ImportError: If one is not installed, with the command that installs it.
    """
    for module in MODEL_LIBRARIES:
        if importlib.util.find_spec(module) is None:
            raise ImportError(
                f'{reason}, and models with weights need {module}, which is not installed: pip install "d2vpr-hf[models]" '
                "installs it.",
                name=module,
            )


def name_models_extra(error: ImportError) -> ImportError:
    """Return an error that names the extra, if an import failed because a library of models with weights is not installed."""
    return _missing(error.name, "models", "it is not installed") if error.name in MODEL_LIBRARIES else error


def _missing(module: str, extra: str, reason: str) -> ImportError:
    return ImportError(
        f'{module.partition(".")[0]} cannot be imported ({reason}): pip install "d2vpr-hf[{extra}]" installs it.'
    )
