"""The findings of ``verl-mars doctor``: one value, printed for people or as JSON for a bug report."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from verl_mars.preflight.doctor import (
    PluginState,
    RecipeState,
    inspect_plugin,
    inspect_ray_worker,
    inspect_recipe,
)

SCHEMA = 1
"""Version of the JSON document; it changes when a key changes its meaning or goes."""


@dataclass
class DoctorReport:
    """Everything that the doctor found."""

    here: PluginState
    ray_worker: PluginState | None = None
    """The same inside a Ray worker; None: not asked."""
    recipe: RecipeState | None = None
    config_name: str | None = None
    overrides: Sequence[str] = ()
    machine: dict[str, str | int | list[str]] = field(default_factory=dict)

    @property
    def faults(self) -> list[str]:
        """A sentence for each fault, with the place where it was found."""
        found = list(self.here.faults)
        if self.ray_worker is not None:
            found += [f"inside a Ray worker: {fault}" for fault in self.ray_worker.faults]
            found += [
                f"inside a Ray worker: {package} is {version}, here {self.here.versions.get(package, '-')}"
                for package, version in self.ray_worker.versions.items()
                if version != self.here.versions.get(package)
            ]
        if self.recipe is not None:
            found += [f"{self.config_name}: {fault}" for fault in self.recipe.faults]
        return found

    def to_json(self) -> str:
        """The report as one JSON document. It has no host or user name; faults may name paths."""
        recipe = None
        if self.recipe is not None:
            recipe = {"config_name": self.config_name, "overrides": list(self.overrides), **asdict(self.recipe)}
        document = {
            "schema": SCHEMA,
            "faults": self.faults,
            "machine": self.machine,
            "plugin": asdict(self.here),
            "ray_worker": None if self.ray_worker is None else asdict(self.ray_worker),
            "recipe": recipe,
        }
        return json.dumps(document, indent=2, ensure_ascii=False)


def examine(
    config_name: str | None = None,
    overrides: Sequence[str] = (),
    data: bool = True,
    ray: bool = True,
    sight: bool = False,
) -> DoctorReport:
    """Look at the plugin, at a Ray worker unless ``ray`` is False, and at a recipe if one is named.

    With ``sight`` the recipe's models are loaded, unless it has a fault already, and asked whether they see
    (:func:`verl_mars.preflight.see.see`).
    """
    recipe = None if config_name is None else inspect_recipe(config_name, overrides, data)
    if sight and config_name is not None and recipe is not None and not recipe.faults:
        from verl_mars.preflight.see import see

        seen = see(config_name, overrides)
        recipe = RecipeState(recipe.faults + seen.faults, recipe.notes + seen.notes)
    return DoctorReport(
        here=inspect_plugin(),
        ray_worker=inspect_ray_worker() if ray else None,
        recipe=recipe,
        config_name=config_name,
        overrides=overrides,
        machine=describe_machine(),
    )


def describe_machine() -> dict[str, str | int | list[str]]:
    """System, processors and accelerators."""
    import torch

    devices = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "system": platform.system(),
        "release": platform.release(),
        "architecture": platform.machine(),
        "cpus": os.cpu_count() or 0,
        "accelerators": devices,
        "cuda": str(torch.version.cuda),
    }
