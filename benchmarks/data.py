"""How fast raw data become rows, and in how much memory: ``python benchmarks/data.py --work FOLDER``.

- ``manifest`` and ``llvip``: path mode with header checks, two images a row, for 1,000 to 100,000 rows: rows a second,
  peak memory, and whether the cost stays linear; then the same with one process beside (``--workers 1``), and how long
  Pillow alone takes to open as many headers. All image files have different names; they are hard links to a few
  hundred pictures.
- ``embed``: embed mode beside ``datasets.Dataset.from_generator(...).to_parquet(...)`` on the same pictures
  (1280 x 1024), in turn. The peer does less: it checks nothing and writes no hash.
- ``read``: the check of the finished files, and verl's own reader on them.

Every run is a fresh process, and imports do not count. Figures are medians of ``--repeats`` runs; a ratio is the median
of the ratios of runs that followed each other, so that a busy machine slows both arms. ``--part`` runs one part and
leaves the other parts' results as they are. ``--work`` keeps the raw files for the next part: about 1 GB, 3 GB with
``embed``.
"""

import argparse
import importlib
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
from data_raw import SIZE, make_pictures, make_raw

from verl_mars.fields import FieldDict

RESULTS = Path(__file__).parent / "results" / "data.json"
BOUNDS = {
    "rows_per_second": 2000,
    "check_rows_per_second": 1000,
    "path_megabytes": 500,
    "embed_speed": 1.5,
    "embed_memory": 0.5,
}

Figures = dict[str, float]


# The arms, each in a separate process


class timed:  # noqa: N801  # reads as a statement
    """Takes the time of a block."""

    wall = cpu = 0.0

    def __enter__(self) -> "timed":
        self._start = time.perf_counter(), self._used()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall = time.perf_counter() - self._start[0]
        self.cpu = self._used() - self._start[1]

    @staticmethod
    def _used() -> float:
        """CPU seconds of this process and of those it has waited for."""
        return sum(os.times()[:4])


def convert_arm(images: str, converter: str, workers: int) -> Callable[[Path, Path, int], timed]:
    """A conversion, as ``verl-mars data convert`` does it."""

    def run(root: Path, out: Path, rows: int) -> timed:
        from verl_mars.data.convert import convert
        from verl_mars.data.settings import settings_from
        from verl_mars.data_prep import find_converter

        importlib.import_module("pandas")  # pyarrow imports it for its first table
        data_set = find_converter(converter)
        settings = settings_from(
            {"root": root, "out": out, "images": images, "limit": rows, "val_fraction": 0.0, "workers": workers}
        )
        with timed() as block:
            result = convert(data_set, settings)
        assert result.rows == rows and result.rejects == 0
        return block

    return run


def pillow_arm(root: Path, out: Path, rows: int) -> timed:
    """Pillow opens the same headers and does nothing else."""
    from PIL import Image

    names = [f"{folder}/train/{row:06d}.jpg" for row in range(rows) for folder in ("visible", "infrared")]
    with timed() as block:
        for name in names:
            with Image.open(root / name) as image:
                assert image.size == SIZE
    return block


def datasets_arm(root: Path, out: Path, rows: int) -> timed:
    """The usual way: a generator of dicts, an Image feature, to_parquet."""
    import datasets

    from verl_mars.data.readers import json_records

    datasets.disable_progress_bars()
    text = datasets.Value("string")
    features = datasets.Features(
        {
            "data_source": text,
            "prompt": [{"role": text, "content": text}],
            "images": [datasets.Image()],
            "ability": text,
            "reward_model": {"style": text, "ground_truth": text},
            "extra_info": {"index": datasets.Value("int64"), "split": text, "sample_id": text, "task": text},
        }
    )

    def generate() -> Iterator[FieldDict]:
        for index, line in enumerate(json_records(root / "manifest.jsonl")):
            if index == rows:
                return
            files = [root / source["images"] for source in line["sources"]]
            yield {
                "data_source": "bench",
                "prompt": [{"role": "user", "content": f"<image><image>{line['question']}"}],
                "images": [{"bytes": file.read_bytes(), "path": None} for file in files],
                "ability": "vqa",
                "reward_model": {"style": "rule", "ground_truth": json.dumps({"answers": [line["answer"]]})},
                "extra_info": {"index": index, "split": "train", "sample_id": str(line["id"]), "task": "vqa"},
            }

    out.mkdir()
    with timed() as block:
        dataset = datasets.Dataset.from_generator(generate, features=features, cache_dir=str(out / "cache"))
        dataset.to_parquet(out / "train.parquet")
    assert len(dataset) == rows
    return block


def check_arm(root: Path, out: Path, rows: int) -> timed:
    """``check_files`` on a finished conversion."""
    from verl_mars.data.check import check_files

    with timed() as block:
        report = check_files(sorted(map(str, out.glob("*.parquet"))))
    assert report.ok and report.rows == rows
    return block


def verl_arm(root: Path, out: Path, rows: int) -> timed:
    """verl's own reader on a finished conversion: load, and every row once."""
    from verl_mars.data.processor import standin_processor
    from verl_mars.data.validate import _verl_dataset

    processor = standin_processor()
    with tempfile.TemporaryDirectory(dir=root) as cache, timed() as block:
        dataset = _verl_dataset(sorted(map(str, out.glob("*.parquet"))), processor, cache)
        for number in range(len(dataset)):
            dataset[number]
    assert len(dataset) == rows
    return block


ARMS: dict[str, Callable[[Path, Path, int], timed]] = {
    "manifest": convert_arm("path", "manifest", 0),  # as `verl-mars data convert` does by itself
    "manifest beside": convert_arm("path", "manifest", 1),
    "llvip": convert_arm("path", "llvip", 0),
    "llvip beside": convert_arm("path", "llvip", 1),
    "embed": convert_arm("embed", "manifest", 0),
    "embed beside": convert_arm("embed", "manifest", 1),
    "pillow": pillow_arm,
    "datasets": datasets_arm,
    "check": check_arm,
    "verl": verl_arm,
}


def run_arm(arm: str, root: Path, out: Path, rows: int) -> None:
    """Run one arm and print its figures as JSON."""
    block = ARMS[arm](root, out, rows)
    # This process, and the one beside it, if there was one
    peak = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024
    print(json.dumps({"rows": rows, "seconds": block.wall, "cpu_seconds": block.cpu, "megabytes": peak}))


# The measuring


class Bench:
    """Raw data under a folder, and runs on them."""

    def __init__(self, work: Path, repeats: int) -> None:
        self.work = work
        self.out = work / "out"
        self.repeats = repeats
        self.pictures = self._made("pictures", make_pictures)

    def _made(self, name: str, make: Callable[[Path], None]) -> Path:
        """A folder that is made once."""
        folder = self.work / name
        if not folder.exists():
            print(f"making {name} ...", flush=True)
            unfinished = self.work / f"{name}.partial"
            shutil.rmtree(unfinished, ignore_errors=True)
            make(unfinished)
            unfinished.rename(folder)
        return folder

    def run(self, arm: str, rows: int, *, keep: bool = False) -> Figures:
        """Figures of one run in a fresh process, into a folder that is empty unless ``keep``."""
        root = self._made(f"raw-{rows}", partial(make_raw, self.pictures, rows))
        if not keep:
            shutil.rmtree(self.out, ignore_errors=True)
        command = [sys.executable, "-W", "ignore", __file__, "--arm", arm, "--rows", str(rows)]
        environment = dict(os.environ, HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
        done = subprocess.run(
            [*command, "--root", str(root), "--out", str(self.out)],
            capture_output=True,
            text=True,
            env=environment,
        )
        if done.returncode:
            raise SystemExit(f"{arm} failed:\n{done.stderr}")
        return json.loads(done.stdout.strip().splitlines()[-1])

    def several(self, arms: list[str], rows: int, *, keep: bool = False) -> dict[str, list[Figures]]:
        """Runs of several arms in turn."""
        runs: dict[str, list[Figures]] = {arm: [] for arm in arms}
        for _ in range(self.repeats):
            for arm in arms:
                runs[arm].append(self.run(arm, rows, keep=keep))
        return runs


def middle(runs: list[Figures]) -> Figures:
    """Medians of some runs and how far they spread, with rows a second and microseconds of CPU time a row."""
    found = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    speeds = [run["rows"] / run["seconds"] for run in runs]
    found["rows_per_second"] = statistics.median(speeds)
    found["slowest"], found["fastest"] = min(speeds), max(speeds)
    found["cpu_us_per_row"] = found["cpu_seconds"] / found["rows"] * 1e6
    found["runs"] = len(runs)
    return {key: round(value, 3) for key, value in found.items()}


def show(name: str, found: Figures) -> None:
    """A line of the table."""
    speed, low, high = (found[key] for key in ("rows_per_second", "slowest", "fastest"))
    cost = f"{found['cpu_us_per_row']:6.0f} us of CPU a row {found['megabytes']:6.0f} MB"
    print(f"{name:30} {speed:7.0f} rows/s ({low:.0f} to {high:.0f}) {cost}", flush=True)


# The parts


def scaling_part(bench: Bench, converter: str, counts: list[int], known: FieldDict) -> FieldDict:
    """Path mode, for more and more rows; ``known`` has the steps of runs before."""
    steps = dict(known)
    for rows in counts:
        about: FieldDict = {"date": today(), "load_before": load()}
        runs = bench.several([converter, f"{converter} beside", "pillow"], rows)
        step = {arm.removeprefix(converter).strip() or "default": middle(found) for arm, found in runs.items()}
        for arm, found in step.items():
            show(f"{converter}, {rows} rows, {arm}", found)
        steps[str(rows)] = about | step
    steps = dict(sorted(steps.items(), key=lambda item: int(item[0])))
    # The first thousand rows carry the start: what further rows cost is compared
    default = [step["default"] for step in steps.values()]
    costs = [
        (large["cpu_seconds"] - small["cpu_seconds"]) / (large["rows"] - small["rows"])
        for small, large in zip(default, default[1:], strict=False)
    ]
    return {
        "steps": steps,
        "cost_growth": round(costs[-1] / costs[0], 3) if len(costs) > 1 else None,
        "holds": {
            "rows_per_second": {
                str(step["rows"]): step["rows_per_second"] >= BOUNDS["rows_per_second"] for step in default
            },
            "path_megabytes": {str(step["rows"]): step["megabytes"] < BOUNDS["path_megabytes"] for step in default},
        },
    }


def embed_part(bench: Bench, rows: int) -> FieldDict:
    """Embed mode and its peer."""
    sizes = [path.stat().st_size for path in bench.pictures.iterdir()]
    result: FieldDict = {"picture_kilobytes": round(statistics.mean(sizes) / 1024)}
    runs = bench.several(["embed", "datasets", "embed beside"], rows)
    for arm, found in runs.items():
        result[arm] = middle(found)
        show(f"{arm}, {rows} rows", result[arm])
    for arm in ("embed", "embed beside"):
        pairs = list(zip(runs[arm], runs["datasets"], strict=True))
        result[f"{arm}: speed"] = round(statistics.median(b["seconds"] / a["seconds"] for a, b in pairs), 3)
        result[f"{arm}: cpu"] = round(statistics.median(b["cpu_seconds"] / a["cpu_seconds"] for a, b in pairs), 3)
        result[f"{arm}: memory"] = round(statistics.median(a["megabytes"] / b["megabytes"] for a, b in pairs), 3)
    result["holds"] = {
        "embed_speed": result["embed: speed"] >= BOUNDS["embed_speed"],
        "embed_memory": result["embed: memory"] <= BOUNDS["embed_memory"],
    }
    return result


def read_part(bench: Bench, rows: int) -> FieldDict:
    """Readers of the finished files."""
    bench.run("manifest", rows)
    runs = bench.several(["check", "verl"], rows, keep=True)
    result = {arm: middle(found) for arm, found in runs.items()}
    for arm, found in result.items():
        show(f"{arm}, {rows} rows", found)
    speed = result["check"]["rows_per_second"]
    result["holds"] = {"check_rows_per_second": speed >= BOUNDS["check_rows_per_second"]}
    return result


def today() -> str:
    """The date."""
    return time.strftime("%Y-%m-%d")


def load() -> float:
    """Processes that wanted a core in the minute before."""
    return round(os.getloadavg()[0], 1)


def machine() -> FieldDict:
    """The machine."""
    import datasets
    import PIL
    import pyarrow
    import report

    return {
        "date": today(),
        "processor": report.processor(),
        "cores": os.cpu_count(),
        "memory_gigabytes": round(psutil.virtual_memory().total / 2**30),
        "load_before": load(),
        "python": platform.python_version(),
        "pyarrow": pyarrow.__version__,
        "pillow": PIL.__version__,
        "datasets": datasets.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["manifest", "llvip", "embed", "read"], action="append")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 10_000, 100_000], help="in path mode")
    parser.add_argument("--embed-rows", type=int, default=5_000)
    parser.add_argument("--work", type=Path, help="where raw files stay; without it they are removed at the end")
    for hidden in ("--arm", "--root", "--out"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        run_arm(options.arm, Path(options.root), Path(options.out), options.rows[0])
        return
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        bench = Bench(work, options.repeats)
        results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        for part in options.part or ["manifest", "llvip", "embed", "read"]:
            about = {"machine": machine()}
            if part == "embed":
                found = embed_part(bench, options.embed_rows)
            elif part == "read":
                found = read_part(bench, max(options.rows))
            else:
                found = scaling_part(bench, part, options.rows, results.get(part, {}).get("steps", {}))
            results[part] = about | found
            print(f"{part}: {found.get('holds', '')}")
            RESULTS.parent.mkdir(exist_ok=True)
            RESULTS.write_text(json.dumps({"bounds": BOUNDS} | results, indent=1) + "\n")
        shutil.rmtree(bench.out, ignore_errors=True)
    print(f"results: {RESULTS}")


if __name__ == "__main__":
    main()
