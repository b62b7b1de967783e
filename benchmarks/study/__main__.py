"""Run what is missing of the study and write its tables:  python benchmarks/study [--seeds 10] [--arms mars grpo] ...

Each finished run is a line of ``benchmarks/results/study.jsonl``; one that stands there is not run again. A warm start
is the toy's own (``verl-mars demo``), built once in the cache.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two runs side by side, and sums in one order

import report  # noqa: E402
from tqdm import tqdm  # noqa: E402

from study.analysis import RUNS, publish, read_runs  # noqa: E402
from study.arms import ARMS, TRACKS, Key  # noqa: E402


@lru_cache(maxsize=2)
def worlds(track: str, warm_start: int) -> tuple[Path, Any, Any]:
    """Checkpoint, training scenes and held-out scenes of a warm start."""
    from study.loop import World
    from verl_mars.toy.evaluate import load
    from verl_mars.toy.prepare import prepare, split_scenes

    checkpoint = prepare(track, warm_start, progress=False).model
    model, tokenizer = load(checkpoint)
    training, heldout = (World(model, tokenizer, split_scenes(split, warm_start)) for split in ("train", "heldout"))
    return checkpoint, training, heldout


def run(key: Key) -> dict[str, Any]:
    """One run, as a line of the results."""
    import torch

    from study.loop import train

    torch.set_num_threads(1)
    checkpoint, training, heldout = worlds(key.track, key.warm_start)
    start = time.monotonic()
    evaluations = list(train(checkpoint, training, heldout, ARMS[key.arm], TRACKS[key.track], key.seed))
    return {**key.describe(), "evaluations": evaluations, "seconds": round(time.monotonic() - start, 1)}


def wanted(options: argparse.Namespace) -> Iterator[Key]:
    """The runs asked for: all arms of a seed before the next seed, so that what is there is always paired."""
    for track in options.tracks:
        for warm_start in range(options.warm_starts):
            for seed in range(options.seeds):
                for arm in options.arms:
                    yield Key(track, warm_start, arm, seed)


def main() -> int:
    parser = argparse.ArgumentParser(prog="study", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--warm-starts", type=int, default=1)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--tracks", nargs="+", default=list(TRACKS), choices=TRACKS)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--tables", action="store_true", help="run nothing; write tables and figures from the results")
    options = parser.parse_args()
    done = {row["key"] for row in read_runs()}
    missing = [] if options.tables else [key for key in wanted(options) if key not in done]
    if missing:
        about = report.about("verl", "torch", "transformers", "numpy")
        for track, warm_start in sorted({(key.track, key.warm_start) for key in missing}):
            worlds(track, warm_start)  # built once, before the workers
        RUNS.parent.mkdir(exist_ok=True)
        with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool, RUNS.open("a") as file:
            running = [pool.submit(run, key) for key in missing]
            for finished in tqdm(as_completed(running), "study", total=len(running), unit="run"):
                file.write(json.dumps(finished.result() | about) + "\n")
                file.flush()
    print(publish())
    return 0


if __name__ == "__main__":
    sys.exit(main())
