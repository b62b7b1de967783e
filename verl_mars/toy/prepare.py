"""The toy's files, built once and kept: world, warm-started model, rows.

They lie under `$VERL_MARS_CACHE` (default `~/.cache/verl_mars`), in `toy/<track>-seed<seed>-<hash>`: the hash covers
everything that decides their contents, so that a changed recipe is never served from an old folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from verl_mars.errors import UsageError
from verl_mars.toy import world

VERSION = 3  # raise it when files of the same configuration come out different
THREADS = 1

# Scenes of each file; `warm start` has its own in warmstart.py. Every file draws from a seed of its own.
SPLITS: Mapping[str, tuple[int, Mapping[str, float]]] = MappingProxyType(
    {"train": (4000, world.TRAINING), "val": (200, world.UNIFORM), "heldout": (1000, world.UNIFORM)}
)
_FIRST_SPLIT_SEED = 10  # below: the warm start's streams
_DONE = "toy.json"


@dataclass(frozen=True)
class ToyPaths:
    """Where a prepared toy lies."""

    root: Path
    model: Path
    train_file: Path
    val_file: Path
    heldout_file: Path

    @classmethod
    def under(cls, root: Path) -> ToyPaths:
        files = (root / f"{split}.parquet" for split in SPLITS)
        return cls(root, root / "model", *files)


def cache_root() -> Path:
    return Path(os.environ.get("VERL_MARS_CACHE") or Path.home() / ".cache" / "verl_mars").expanduser()


def prepare(track: str = "default", seed: int = 0, root: str | Path | None = None, progress: bool = True) -> ToyPaths:
    """Build the toy of a track and seed, or find it where it was built before.

    `root` replaces the cache folder. A build is written beside its place and moved there when it is whole: one that is
    killed leaves nothing half done, and of two at a time the first to finish wins. Raises ValueError for an unknown
    track and for a folder that was moved.
    """
    from verl_mars.toy.warmstart import TRACKS

    if track not in TRACKS:
        raise UsageError(f"unknown toy track {track!r}; allowed: {sorted(TRACKS)}")
    config = {"version": VERSION, "track": track, "seed": seed, "threads": THREADS, "recipe": asdict(TRACKS[track])}
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
            "Remove the folder, and it is built anew"
        )
    print(f"toy world and model: {home}")
    return ToyPaths.under(home)


def _build(home: Path, track: str, seed: int, config: dict[str, Any], progress: bool) -> None:
    from verl_mars.toy import model as toy_model
    from verl_mars.toy.rows import write_split
    from verl_mars.toy.warmstart import TRACKS, warm_start

    work = Path(tempfile.mkdtemp(prefix=f".{home.name}-", dir=home.parent))
    try:
        toy_model.save(warm_start(TRACKS[track], seed, THREADS, progress), ToyPaths.under(work).model)
        for number, (split, (count, mix)) in enumerate(SPLITS.items(), _FIRST_SPLIT_SEED):
            write_split(world.make_scenes(count, [seed, number], mix), split, work, home, progress)
        (work / _DONE).write_text(json.dumps({"home": str(home), **config}, indent=1), encoding="utf-8")
        work.chmod(0o755)  # a temporary folder is its owner's alone
        try:
            work.rename(home)
        except OSError:
            if not (home / _DONE).exists():  # not another process that was faster
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
