"""The synthetic world: small aligned pictures of one scene by an RGB camera and by an infrared or a depth sensor.

A scene is a 2x2 grid of cells with two to four objects, at most one in a cell. RGB shows colors; only the auxiliary
sensor shows which object is hot (infrared) or near (depth). RGB may carry a *cue*, an orange glow or a larger size,
that suggests which object it is; the cue may be wrong. The **regime** of a scene says which source is needed and which
is right:

| regime          | question                     | RGB                            | auxiliary     | answers alone    |
|-----------------|------------------------------|--------------------------------|---------------|------------------|
| `complementary` | color of the hot/near object | colors, no cue                 | which object  | neither          |
| `redundant`     | where is it                  | cue on the right object        | which object  | either           |
| `dominant`      | where is it                  | night; or cue, right           | right; or off | the one that works |
| `conflicting`   | where is it                  | cue on another object          | which object  | the auxiliary    |

Same seed, same bytes. The first `n` scenes of a seed do not depend on how many are made.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from verl_mars.fields import FieldDict

RGB, INFRARED, DEPTH = SOURCES = ("rgb", "infrared", "depth")
COMPLEMENTARY, REDUNDANT, DOMINANT, CONFLICTING = REGIMES = ("complementary", "redundant", "dominant", "conflicting")
COLORS = ("red", "green", "blue", "yellow")
QUADRANTS = ("top left", "top right", "bottom left", "bottom right")

CELL = 28  # pixels; one merged visual token of the Qwen2.5-VL family (patch 14, merge 2)
SIZE = 2 * CELL
IMAGES = 2  # RGB first, the auxiliary sensor second
BLOCK = 200  # scenes drawn together: the smallest count that holds both mixes below exactly

UNIFORM: Mapping[str, float] = MappingProxyType({regime: 0.25 for regime in REGIMES})
TRAINING: Mapping[str, float] = MappingProxyType({COMPLEMENTARY: 0.4, REDUNDANT: 0.2, DOMINANT: 0.2, CONFLICTING: 0.2})

NOTHING = -1  # a cell index: no cue
_PAINT = np.array([[220, 40, 40], [40, 200, 60], [50, 80, 230], [230, 220, 50]], np.float32)
_GLOW = np.array([255, 150, 60], np.float32)
_TINT = np.array([[1.0, 0.75, 0.75], [0.35, 0.7, 1.0]], np.float32)  # infrared, depth: a sensor is known by its tint
_AMBIENT = 120.0
_NOISE = 10.0
_CIRCLE = 0
_SHAPES = 3  # circle, square, triangle: variety that no question asks about


@dataclass(frozen=True)
class Scenes:
    """N scenes as arrays; cells are 0..3 in reading order.

    Attributes:
        images: (N, 2, 56, 56, 3) uint8.
        regime: (N,) index into :data:`REGIMES`.
        auxiliary: (N,) 0 infrared, 1 depth.
        target: (N,) cell of the object that the question is about.
        decoy: (N,) cell of another object.
        cue: (N,) cell of the RGB cue, -1 without one.
        color: (N, 4) index into :data:`COLORS`.
        present: (N, 4) whether the cell has an object.
        night: (N,) RGB is only noise.
        off: (N,) the auxiliary sensor gives only static.
    """

    images: NDArray[np.uint8]
    regime: NDArray[np.int64]
    auxiliary: NDArray[np.int64]
    target: NDArray[np.int64]
    decoy: NDArray[np.int64]
    cue: NDArray[np.int64]
    color: NDArray[np.int64]
    present: NDArray[np.bool_]
    night: NDArray[np.bool_]
    off: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.regime)

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> "Scenes":
        return Scenes(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def regime_name(self, row: int) -> str:
        return REGIMES[self.regime[row]]

    def source_names(self, row: int) -> tuple[str, str]:
        """Names of the two images, in their order."""
        return RGB, SOURCES[1 + self.auxiliary[row]]

    def sufficient(self, row: int) -> tuple[str, ...]:
        """The sources that hold the answer by themselves."""
        rgb, auxiliary = self.source_names(row)
        if self.regime_name(row) == COMPLEMENTARY:
            return ()
        by_rgb = self.cue[row] == self.target[row]
        return ((rgb,) if by_rgb else ()) + (() if self.off[row] else (auxiliary,))

    def question(self, row: int) -> str:
        what = ("hot", "near")[self.auxiliary[row]]
        if self.regime_name(row) == COMPLEMENTARY:
            return f"what color is the {what} object?"
        return f"where is the {what} object?"

    def messages(self, row: int) -> list[FieldDict]:
        """The prompt as a conversation, with a placeholder part for each image."""
        images = [{"type": "image"}] * IMAGES
        return [{"role": "user", "content": [*images, {"type": "text", "text": self.question(row)}]}]

    def thought(self, row: int) -> str:
        """The step before the answer: the place of the object that the question is about."""
        return QUADRANTS[self.target[row]]

    def answer(self, row: int) -> str:
        if self.regime_name(row) == COMPLEMENTARY:
            return COLORS[self.color[row, self.target[row]]]
        return self.thought(row)


_RESPONSE = re.compile(r"<think>[^<]+</think><answer>([^<]+)</answer>")


def parse_answer(response: str) -> str | None:
    """The answer in a response of exactly ``<think>..</think><answer>..</answer>``; None of any other."""
    match = _RESPONSE.fullmatch(response)
    return match[1].strip() if match else None


def make_scenes(count: int, seed: int | Sequence[int], mix: Mapping[str, float] = UNIFORM) -> Scenes:
    """`count` scenes of the world.

    Args:
        count: number of scenes.
        seed: of all random numbers.
        mix: share of each regime; every full block of 200 scenes has these shares, rounded to whole scenes.

    Raises:
        ValueError: a count below 1, an unknown regime, shares that are negative or do not sum to 1.
    """
    if count < 1:
        raise ValueError(f"a world needs at least one scene, got count={count}")
    shares = _check_mix(mix)
    parts = []
    for first in range(0, count, BLOCK):
        seeds = [*np.atleast_1d(seed), first // BLOCK]
        parts.append(_draw_block(seeds, shares, wanted=min(BLOCK, count - first)))
    return Scenes(
        **{field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Scenes)}
    )


def _check_mix(mix: Mapping[str, float]) -> NDArray[np.float64]:
    unknown = sorted(set(mix) - set(REGIMES))
    if unknown:
        raise ValueError(f"unknown regimes {unknown} in mix; allowed: {list(REGIMES)}")
    shares = np.array([mix.get(regime, 0.0) for regime in REGIMES])
    if (shares < 0).any() or not np.isclose(shares.sum(), 1.0):
        raise ValueError(f"mix must hold shares of at least 0 that sum to 1, got {dict(mix)}")
    return shares


def _draw_block(seeds: Sequence[int], shares: NDArray[np.float64], wanted: int) -> Scenes:
    """The first `wanted` scenes of a block: the contents of the whole block, then the pictures of the wanted ones."""
    rng = np.random.default_rng([*seeds, 0])
    n = BLOCK
    bounds = np.round(np.cumsum(shares)[:-1] * n).astype(int)
    regime = rng.permutation(np.searchsorted(bounds, np.arange(n), side="right"))
    auxiliary = rng.integers(0, 2, n)
    cells = np.argsort(rng.random((n, 4)), axis=1)  # a random order of the cells: the first ones are filled
    present = np.argsort(cells, axis=1) < rng.integers(2, 5, n)[:, None]
    target, decoy = cells[:, 0], cells[:, 1]
    color = np.argsort(rng.random((n, 4)), axis=1)  # all different within a scene

    half = rng.random(n) < 0.5
    dominant = regime == REGIMES.index(DOMINANT)
    night, off = dominant & half, dominant & ~half
    cue = np.where((regime == REGIMES.index(REDUNDANT)) | off, target, NOTHING)
    cue = np.where(regime == REGIMES.index(CONFLICTING), decoy, cue)

    blank = np.zeros((n, IMAGES, 0, 0, 3), np.uint8)
    scenes = Scenes(blank, regime, auxiliary, target, decoy, cue, color, present, night, off)[:wanted]
    return replace(scenes, images=_render(scenes, seeds))


def _render(scenes: Scenes, seeds: Sequence[int]) -> NDArray[np.uint8]:
    """Pictures (N, 2, 56, 56, 3) of the first N scenes of a block.

    Each kind of random number has a separate stream, in the order of the scenes: pictures do not depend on N.
    """
    streams = (np.random.default_rng([*seeds, stream]) for stream in itertools.count(1))
    n = len(scenes)
    target, cue = scenes.target[:, None], scenes.cue[:, None]
    by_size = (scenes.auxiliary == 1)[:, None] & (cue != NOTHING)  # depth scenes: "the larger one is nearer"
    by_glow = (scenes.auxiliary == 0)[:, None] & (np.arange(4) == cue)  # infrared scenes: "the glowing one is hot"

    radius = next(streams).integers(7, 9, (n, 4)).astype(np.float32)
    radius = np.where(by_size, np.where(np.arange(4) == cue, 10, 5), radius).astype(np.float32)
    center = (CELL - 1) / 2 + next(streams).integers(-2, 3, (n, 4, 2)).astype(np.float32)
    shape = next(streams).integers(0, _SHAPES, (n, 4))
    body = _silhouettes(shape, radius, center) & scenes.present[..., None, None]
    glow = _silhouettes(np.full_like(shape, _CIRCLE), radius + 4, center) & by_glow[..., None, None]

    ground = next(streams).uniform(40, 90, (n, 1, 1, 1, 1)).astype(np.float32)
    paint = _PAINT[scenes.color][:, :, None, None, :]
    rgb = np.where(body[..., None], paint, np.where(glow[..., None], _GLOW, ground))

    level = next(streams).uniform(35, 95, (n, 4))
    bright = next(streams).uniform(165, 235, (n, 1))
    level = np.where(np.arange(4) == target, bright, level).astype(np.float32)
    grey = np.where(body, level[..., None, None], np.float32(_AMBIENT))
    sensed = grey[..., None] * _TINT[scenes.auxiliary][:, None, None, None, :]

    images = np.stack([_join_cells(rgb), _join_cells(sensed)], axis=1)
    images += _NOISE * next(streams).standard_normal(images.shape, np.float32)
    one = (SIZE, SIZE, 3)
    images[scenes.night, 0] = 22 * np.abs(next(streams).standard_normal((scenes.night.sum(), *one), np.float32))
    images[scenes.off, 1] = 255 * next(streams).random((scenes.off.sum(), *one), np.float32)
    # A cross in the middle, as sensors overlay one: the vision tower knows only relative positions, so without a mark
    # in the pixels the four cells look alike to it, and "where" is learned ten times slower.
    images[:, :, CELL - 1 : CELL + 1] = 150
    images[:, :, :, CELL - 1 : CELL + 1] = 150
    return np.clip(images, 0, 255).astype(np.uint8)


def _silhouettes(
    shape: NDArray[np.int64], radius: NDArray[np.float32], center: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Masks (N, 4, 28, 28) of circles, squares and triangles; shape and radius (N, 4), center (N, 4, 2) as y, x."""
    ys, xs = np.mgrid[0:CELL, 0:CELL].astype(np.float32)
    y, x = ys - center[..., 0, None, None], xs - center[..., 1, None, None]
    r, kind = radius[..., None, None], shape[..., None, None]
    circle = x * x + y * y <= r * r
    square = (np.abs(x) <= 0.88 * r) & (np.abs(y) <= 0.88 * r)
    triangle = (y >= -r) & (y <= 0.9 * r) & (np.abs(x) <= 0.6 * (y + r))
    return np.where(kind == _CIRCLE, circle, np.where(kind == 1, square, triangle))


def _join_cells(cells: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, 4, 28, 28, 3) in reading order -> (N, 56, 56, 3)."""
    grid = cells.reshape(-1, 2, 2, CELL, CELL, 3).transpose(0, 1, 3, 2, 4, 5)
    return np.ascontiguousarray(grid.reshape(-1, SIZE, SIZE, 3), dtype=np.float32)
