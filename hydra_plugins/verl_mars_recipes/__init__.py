"""Lets Hydra find the recipes by name, anywhere: ``python -m verl.trainer.main_ppo --config-name=toy_mars_grpo``."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class VerlMarsRecipes(SearchPathPlugin):
    """Appends the recipes, and verl's own configuration that they inherit, to every Hydra application's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append(provider="verl-mars", path="pkg://verl_mars.recipes")
        search_path.append(provider="verl-mars", path="pkg://verl.trainer.config")
