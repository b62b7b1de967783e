"""The toy's files, built once and cached: world, warm-started model, rows.

They are under ``$VERL_MARS_CACHE`` (default ``~/.cache/verl_mars``), in ``toy/<track>-seed<seed>-<hash>``. The hash
covers everything that determines their contents, so a changed recipe never gets an old folder.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

from verl_mars.errors import UsageError
from verl_mars.toy import world

VERSION = 3  # raise it when files of the same configuration come out different
THREADS = 1

# Scenes of each file, each from its own seed. The warm start's scenes are in warmstart.py.
SPLITS: Mapping[str, tuple[int, Mapping[str, float]]] = MappingProxyType(
    {"train": (4000, world.TRAINING), "val": (200, world.UNIFORM), "heldout": (1000, world.UNIFORM)}
)
_FIRST_SPLIT_SEED = 10  # below: the warm start's streams
_DONE = "toy.json"


@dataclass(frozen=True)
class ToyPaths:
    """Paths of a prepared toy."""

    root: Path
    model: Path
    train_file: Path
    val_file: Path
    heldout_file: Path

    @classmethod
    def under(cls, root: Path) -> "ToyPaths":
        files = (root / f"{split}.parquet" for split in SPLITS)
        return cls(root, root / "model", *files)


def cache_root() -> Path:
    return Path(os.environ.get("VERL_MARS_CACHE") or Path.home() / ".cache" / "verl_mars").expanduser()


def prepare(track: str = "default", seed: int = 0, root: str | Path | None = None, progress: bool = True) -> ToyPaths:
    """The toy of a track and seed, built if it is not in the cache.

    A build is written to a temporary folder and renamed at the end: a killed one leaves nothing incomplete, and the
    first of two at a time wins.

    Args:
        track: a track of :data:`verl_mars.toy.warmstart.TRACKS`.
        seed: seed of the world and the model.
        root: instead of the cache folder.
        progress: show bars.

    Raises:
        ValueError: an unknown track, or a folder that was moved after it was built.
    """
    from verl_mars.toy.warmstart import TRACKS

    if track not in TRACKS:
        raise UsageError(f"unknown toy track {track!r}; allowed: {sorted(TRACKS)}")
    # A switch that is off is left out: what was built before there was one stays valid.
    recipe = {name: value for name, value in asdict(TRACKS[track]).items() if value is not False}
    config = {"version": VERSION, "track": track, "seed": seed, "threads": THREADS, "recipe": recipe}
    config["splits"] = {split: [count, dict(mix)] for split, (count, mix) in SPLITS.items()}
    text = json.dumps(config, sort_keys=True, default=dict)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    parent = Path(root) if root is not None else cache_root() / "toy"
    home = parent.expanduser().resolve() / f"{track}-seed{seed}-{digest}"
    if not (home / _DONE).exists():
        home.parent.mkdir(parents=True, exist_ok=True)
        _build(home, track, seed, json.loads(text), progress)
    built_at = json.loads((home / _DONE).read_text(encoding="utf-8"))["home"]
    if built_at != str(home):
        raise ValueError(
            f"the toy in {home} was built in {built_at} and moved here; its rows name pictures there. "
            "Remove the folder to have it built again"
        )
    print(f"toy world and model: {home}")
    return ToyPaths.under(home)


def split_scenes(split: str, seed: int) -> world.Scenes:
    """The scenes of one of :data:`SPLITS`."""
    count, mix = SPLITS[split]
    return world.make_scenes(count, [seed, _FIRST_SPLIT_SEED + list(SPLITS).index(split)], mix)


def _build(home: Path, track: str, seed: int, config: dict[str, object], progress: bool) -> None:
    from verl_mars.toy import model as toy_model
    from verl_mars.toy.rows import write_split
    from verl_mars.toy.warmstart import TRACKS, warm_start

    work = Path(tempfile.mkdtemp(prefix=f".{home.name}-", dir=home.parent))
    try:
        toy_model.save(warm_start(TRACKS[track], seed, THREADS, progress), ToyPaths.under(work).model)
        for split in SPLITS:
            write_split(split_scenes(split, seed), split, work, home, progress)
        (work / _DONE).write_text(json.dumps({"home": str(home), **config}, indent=1), encoding="utf-8")
        work.chmod(0o755)  # a temporary folder is its owner's alone
        try:
            work.rename(home)
        except OSError:
            if not (home / _DONE).exists():  # not another process that was faster
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
