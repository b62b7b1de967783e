"""Converters, one thin file for each raw data set or format: raw layout in, samples out.

Each module has a ``CONVERTER``. :func:`find_converter` finds it by the module's name, which is the data set's name in
``verl-mars data convert NAME``.
"""

import importlib
import pkgutil
from typing import TYPE_CHECKING

from verl_mars.errors import UsageError

if TYPE_CHECKING:
    from verl_mars.data.sample import Converter


def converter_names() -> list[str]:
    """The data sets and formats that come with verl-mars."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def find_converter(name: str) -> "Converter":
    """The converter of a data set, or a user's own: ``package.module:NAME``.

    Raises:
        UsageError: there is none.
    """
    from verl_mars.data.sample import Converter

    module, _, attribute = name.partition(":")
    if not attribute:
        if name not in converter_names():
            raise UsageError(
                f"data set {name!r} is unknown, allowed: {', '.join(converter_names())}, or package.module:NAME"
            )
        module, attribute = f"{__name__}.{name}", "CONVERTER"
    try:
        converter = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"no converter at {module}:{attribute}: {error}") from error
    if not isinstance(converter, Converter):
        raise UsageError(f"{module}:{attribute} is no verl_mars.data.sample.Converter")
    return converter
