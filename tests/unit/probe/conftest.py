"""A toy data set whose regimes are known."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from fake_server import Asked, formatted

from verl_mars.toy import world
from verl_mars.toy.rows import write_split


@dataclass(frozen=True)
class Toy:
    """Rows on disk, and what is true of them."""

    file: Path
    scenes: world.Scenes
    of_image: dict[str, tuple[int, str]]
    """SHA-256 of an image file -> (row, source)."""

    def shown(self, asked: Asked) -> tuple[int, set[str]] | None:
        """The row and the sources that a request shows; None without images."""
        seen = [self.of_image[image] for image in asked.images]
        return (seen[0][0], {source for _, source in seen}) if seen else None


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    folder = tmp_path_factory.mktemp("probed")
    scenes = world.make_scenes(200, 3)
    file = write_split(scenes, "heldout", folder)
    of_image = {}
    for row in range(len(scenes)):
        for source in scenes.source_names(row):
            data = (folder / "images" / "heldout" / f"{row:05d}_{source}.png").read_bytes()
            of_image[hashlib.sha256(data).hexdigest()] = (row, source)
    return Toy(file, scenes, of_image)


@pytest.fixture
def misled(toy: Toy) -> Callable[[Asked], str]:
    """Right exactly where the sources shown hold the answer, except that both together follow a lying cue."""

    def answer(asked: Asked) -> str:
        shown = toy.shown(asked)
        if shown is None:
            return formatted("nothing to see")
        row, sources = shown
        scenes = toy.scenes
        together = len(sources) == 2
        conflicting = scenes.regime_name(row) == world.CONFLICTING
        right = not conflicting if together else bool(sources & set(scenes.sufficient(row)))
        asked_about = scenes.question(row) == asked.text  # of another row's images: nothing
        return formatted(scenes.answer(row) if right and asked_about else "cannot say")

    return answer
