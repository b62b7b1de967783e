"""METHODS: every method by its ``algorithm.adv_estimator``, those of other packages included."""

import importlib
import importlib.metadata
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from verl_mars.errors import UserError
from verl_mars.methods.base import Method

if TYPE_CHECKING:
    from omegaconf import DictConfig

GROUP = "verl_mars.methods"
"""Entry points of other packages: ``name = module:Class``."""

BUILT_IN = {
    "mars": "verl_mars.methods.mars:Mars",
    "pgpo": "verl_mars.methods.pgpo:Pgpo",
    "vogue": "verl_mars.methods.vogue:Vogue",
    "papo": "verl_mars.methods.papo:Papo",
    "vppo": "verl_mars.methods.vppo:Vppo",
}


class MethodTable(Mapping[str, type[Method]]):
    """Methods by name. A class is imported when it is first asked for, so that a broken one harms nobody else."""

    @cached_property
    def origins(self) -> dict[str, list[str]]:
        """Where each method comes from, ``module:Class``; more than one place is a conflict."""
        origins = {name: [place] for name, place in BUILT_IN.items()}
        for point in importlib.metadata.entry_points(group=GROUP):
            places = origins.setdefault(point.name, [])
            if point.value not in places:  # an installation may be found twice on sys.path
                places.append(point.value)
        return origins

    def __getitem__(self, name: str) -> type[Method]:
        """The class of a method.

        Raises:
            KeyError: there is no method of this name.
            UserError: it cannot be loaded, or is not what the name promises.
        """
        places = self.origins[name]
        if len(places) > 1:
            raise UserError(
                f"the method {name!r} is named by {len(places)} places: {', '.join(places)}; "
                f"rename or uninstall all but one (entry points of the group {GROUP})"
            )
        module, _, attribute = places[0].partition(":")
        try:
            method = getattr(importlib.import_module(module), attribute)
        except Exception as error:  # whatever a package of somebody else does while it is imported
            raise UserError(
                f"the method {name!r} ({places[0]}) cannot be loaded: {type(error).__name__}: {error}"
            ) from error
        if not (isinstance(method, type) and issubclass(method, Method) and method.name == name):
            raise UserError(
                f"the method {name!r} ({places[0]}) must be a subclass of verl_mars.methods.Method with name = {name!r}"
            )
        return method

    def __iter__(self) -> Iterator[str]:
        return iter(self.origins)

    def __len__(self) -> int:
        return len(self.origins)

    def __contains__(self, name: object) -> bool:
        return name in self.origins  # without loading it


METHODS = MethodTable()


def method_of(algorithm: "DictConfig") -> Method:
    """The method of a run; :class:`Method` itself for an estimator of verl's own.

    Args:
        algorithm: the section ``algorithm`` of a configuration.

    Raises:
        UserError: the method cannot be loaded, or its settings are wrong.
    """
    name = str(algorithm.adv_estimator)
    return METHODS[name](algorithm) if name in METHODS else Method(algorithm)
