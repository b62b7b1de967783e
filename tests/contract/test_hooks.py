"""HOOKS lists every private method of verl that we override: it fits the installed verl, and our classes."""

import importlib
import pkgutil

import pytest
import verl  # noqa: F401  first: it loads the plugin
import verl.checkpoint_engine  # noqa: F401  before verl_mars.cpu, which adds an engine to it
from verl_contract import expect, parameters

import verl_mars
from verl_mars._compat import HOOKS

_WITHOUT = ("verl_mars.recipes", "verl_mars.data_prep", "verl_mars.cpu.vllm")
"""No overrides of verl in these; the last needs vLLM."""


def our_classes():
    """Every class of the package."""
    for module in pkgutil.walk_packages(verl_mars.__path__, "verl_mars."):
        if not module.name.startswith(_WITHOUT):
            loaded = importlib.import_module(module.name)
            yield from (c for c in vars(loaded).values() if isinstance(c, type) and c.__module__ == module.name)


def overridden(cls):
    """The class of verl and the function for each private method that a class of ours overrides."""
    for name, function in vars(cls).items():
        owners = [base for base in cls.__mro__ if base.__module__.startswith("verl.") and name in vars(base)]
        if owners and name.startswith("_") and not name.startswith("__") and callable(function):
            yield owners[0], vars(owners[0])[name]


@pytest.fixture(scope="module")
def found():
    """verl's function and our classes by the names of HOOKS."""
    functions, ours = {}, {}
    for cls in our_classes():
        for owner, function in overridden(cls):
            name = f"{owner.__name__}.{function.__name__}"
            functions[name] = function
            ours.setdefault(name, set()).add(f"{cls.__module__}.{cls.__qualname__}".removeprefix("verl_mars."))
    return functions, ours


def test_every_override_is_listed_and_every_entry_is_one(found):
    assert {name: set(hook.ours) for name, hook in HOOKS.items()} == found[1]


@pytest.mark.parametrize("name", HOOKS)
def test_verls_method_takes_what_ours_passes_on(found, name):
    function = found[0].get(name)
    ours = " and ".join(HOOKS[name].ours)
    expect(function is not None, f"it has no method {name}", f"{ours}, and HOOKS in verl_mars/_compat.py")
    expect(", ".join(parameters(function)[1:]) == HOOKS[name].parameters, f"the parameters of {name}", ours)


def test_an_override_that_is_not_listed_is_found():
    """The scan sees a class of ours that overrides one method more."""
    from verl.trainer.ppo.v1 import PPOTrainer

    class Further(PPOTrainer):
        def _update_actor(self, batch, metrics):
            return super()._update_actor(batch, metrics)

    assert [function.__name__ for _, function in overridden(Further)] == ["_update_actor"]
