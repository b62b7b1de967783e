"""Runs of the study, each in whatever process it is called; a process keeps its worlds."""

import hashlib
import time
from functools import lru_cache
from pathlib import Path

import torch

from study.answers import World
from study.arms import ARMS, TRACKS, Key
from study.loop import train
from verl_mars.fields import FieldDict
from verl_mars.toy.evaluate import load
from verl_mars.toy.prepare import prepare, split_scenes


@lru_cache(maxsize=2)
def worlds(track: str, warm_start: int) -> tuple[Path, World, World]:
    """Checkpoint, training scenes and held-out scenes of a warm start."""
    checkpoint = prepare(track, warm_start, progress=False).model
    model, tokenizer = load(checkpoint)
    training, heldout = (World(model, tokenizer, split_scenes(split, warm_start)) for split in ("train", "heldout"))
    return checkpoint, training, heldout


def digest(checkpoint: Path) -> str:
    """Of a warm start's weights, which differ from machine to machine: what is compared has to start from the same."""
    return hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()[:12]


def run(key: Key) -> FieldDict:
    """One run, as a line of the results."""
    torch.set_num_threads(1)
    checkpoint, training, heldout = worlds(key.track, key.warm_start)
    start = time.monotonic()
    evaluations = list(train(checkpoint, training, heldout, ARMS[key.arm], TRACKS[key.track], key.seed))
    about = {"weights": digest(checkpoint)}
    return {**key.describe(), **about, "evaluations": evaluations, "seconds": round(time.monotonic() - start, 1)}
