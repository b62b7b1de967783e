"""Run what is missing of the study and write its tables:  python benchmarks/study [--seeds 10] [--arms mars grpo] ...

Each finished run is a line of ``benchmarks/results/study.jsonl``; one that stands there is not run again. A warm start
is the toy's own (``verl-mars demo``), built once in the cache. ``--in-verl`` trains by verl instead of in the study's
loop and writes ``study_verl.jsonl``; ``--rounding`` runs the loop as an older processor would round and writes
``study_rounding.jsonl``.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two runs side by side, and sums in one order

import report  # noqa: E402
from tqdm import tqdm  # noqa: E402

from study import in_verl, runs  # noqa: E402
from study.analysis import ROUNDING_RUNS, RUNS, VERL_RUNS, read_runs  # noqa: E402
from study.arms import ARMS, TRACKS, Key, arms_in_verl  # noqa: E402
from study.page import publish  # noqa: E402
from verl_mars.toy.prepare import prepare  # noqa: E402

WITHOUT_AVX = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"}
"""torch's own kernels, oneDNN and MKL add in another order, as on another processor. Read when torch is imported."""


def wanted(options: argparse.Namespace) -> Iterator[Key]:
    """The runs asked for: all arms of a seed before the next seed, so that an interrupted study has pairs."""
    for track in options.tracks:
        for warm_start in range(options.warm_starts):
            for seed in range(options.seeds):
                for arm in options.arms:
                    yield Key(track, warm_start, arm, seed)


def build_warm_starts(missing: Iterable[Key]) -> None:
    """Build each once, before the workers, and compare it with that of the runs that are there.

    Raises:
        ValueError: runs from other weights could not be compared with them.
    """
    there = [row for file in (RUNS, VERL_RUNS, ROUNDING_RUNS) for row in read_runs(file)]
    for track, number in sorted({(key.track, key.warm_start) for key in missing}):
        own = runs.digest(prepare(track, number, progress=False).model)
        others = {row["weights"] for row in there if (row["track"], row["warm_start"]) == (track, number)} - {own}
        if others:
            raise ValueError(
                f"the recorded runs of track {track} start from other weights ({', '.join(sorted(others))}) than this "
                f"machine builds ({own}), so a new run could not be paired with them. Move {RUNS.parent}/study*.jsonl "
                "away to begin a study of your own"
            )


def main() -> int:
    parser = argparse.ArgumentParser(prog="study", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--warm-starts", type=int, default=1)
    parser.add_argument("--arms", nargs="+", choices=ARMS, help="default: all that can run")
    parser.add_argument("--tracks", nargs="+", default=list(TRACKS), choices=TRACKS)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--in-verl", action="store_true", help="runs of verl, to compare the loop with")
    kind.add_argument("--rounding", action="store_true", help="as a processor without AVX rounds")
    kind.add_argument("--tables", action="store_true", help="run nothing; write tables and figures from the results")
    options = parser.parse_args()
    results, run = (VERL_RUNS, in_verl.run) if options.in_verl else (RUNS, runs.run)
    if options.rounding:
        results = ROUNDING_RUNS
    options.arms = options.arms or [name for name, arm in ARMS.items() if arm.recipe or not options.in_verl]
    if options.in_verl:
        try:
            arms_in_verl(options.arms)
        except ValueError as error:
            parser.error(str(error))
    done = {row["key"] for row in read_runs(results)}
    missing = [] if options.tables else [key for key in wanted(options) if key not in done]
    failed = 0
    if missing:
        about = report.about("verl", "torch", "transformers", "numpy")
        try:
            build_warm_starts(missing)
        except ValueError as error:
            parser.error(str(error))
        if options.rounding:
            os.environ.update(WITHOUT_AVX)  # for the workers; the warm start stays as it is
        results.parent.mkdir(exist_ok=True)
        with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool, results.open("a") as file:
            running = [pool.submit(run, key) for key in missing]
            for finished in tqdm(as_completed(running), "study", total=len(running), unit="run"):
                if error := finished.exception():  # the other runs continue
                    failed += 1
                    tqdm.write(f"a run failed: {error}", file=sys.stderr)
                    continue
                file.write(json.dumps(finished.result() | about) + "\n")
                file.flush()
    print(publish())
    if failed:
        print(f"{failed} of {len(missing)} runs failed; the same command runs them again", file=sys.stderr)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
