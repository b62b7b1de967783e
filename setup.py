"""The packages of the wheel; everything else about the build is in pyproject.toml.

``data_prep/`` and ``recipes/`` lie at the top level of the repository and are installed inside ``verl_mars``.
"""

from setuptools import find_packages, setup

TOP_LEVEL = ("data_prep", "recipes")

setup(
    packages=[
        *find_packages(include=["verl_mars", "verl_mars.*"]),
        *(f"verl_mars.{name}" for name in TOP_LEVEL),
        # Hydra's namespace package: listed itself too, or an editable installation gives it an empty search path.
        *("hydra_plugins", "hydra_plugins.verl_mars_recipes"),
    ],
    package_dir={f"verl_mars.{name}": name for name in TOP_LEVEL},
)
