"""How fast raw data become rows, and in how much memory: ``python benchmarks/data.py`` prints tables, writes JSON.

- Path mode with header checks, two images a row, for 1,000 to 100,000 rows: rows a second, peak memory, and whether the
  cost stays linear. All image files have names of their own; they are hard links to a few hundred pictures.
- Embed mode beside ``datasets.Dataset.from_generator(...).to_parquet(...)`` on the same pictures (1280 x 1024, about
  170 KB each), in turn, in a process each. The peer does less: it checks nothing and writes no hash.
- The check of the finished files, and verl's own reader on them.

Every figure is the median of ``--repeats`` runs, each in a fresh process; the ratio is the median of the ratios of runs
that followed each other, so that a busy machine slows both arms. Needs about 5 GB under ``--work``.
"""

import argparse
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SIZE = (1280, 1024)
PICTURES = 300
WORKERS = 1  # what `verl-mars data convert` starts by itself for these data sets
RESULTS = Path(__file__).parent / "results" / "data.json"
LIMITS = {"rows_per_second": 2000, "path_megabytes": 500, "embed_speed": 1.5, "embed_memory": 0.5}


# What is measured; each in a process of its own


def run_arm(arm: str, root: Path, out: Path, rows: int) -> None:
    """Run one arm and print its figures as JSON."""
    ARMS[arm](root, out, rows)  # imports count in memory, but not in time: see `timed`
    used = [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    peak = sum(used)  # this process, and the one beside it, if there is one
    print(json.dumps({"seconds": TIMES["wall"], "cpu": TIMES["cpu"], "megabytes": peak}))


TIMES: dict[str, float] = {}


def _cpu() -> float:
    """CPU seconds of this process and of those it has waited for."""
    return sum(os.times()[:4])


class timed:  # noqa: N801  # reads as a statement
    """Takes the time of a block."""

    def __enter__(self) -> None:
        self.start = time.perf_counter(), _cpu()

    def __exit__(self, *_: object) -> None:
        TIMES["wall"] = time.perf_counter() - self.start[0]
        TIMES["cpu"] = _cpu() - self.start[1]


def convert_arm(images: str, converter: str) -> Any:
    """A conversion, as ``verl-mars data convert`` does it."""

    def run(root: Path, out: Path, rows: int) -> None:
        from verl_mars.data.cli import find_converter
        from verl_mars.data.convert import convert
        from verl_mars.data.settings import settings_from

        settings = settings_from(
            {"root": root, "out": out, "images": images, "limit": rows, "val_fraction": 0.0, "workers": WORKERS}
        )
        with timed():
            result = convert(find_converter(converter), settings)
        assert result.rows == rows and result.rejects == 0

    return run


def datasets_arm(root: Path, out: Path, rows: int) -> None:
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

    def generate() -> Iterator[dict[str, Any]]:
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
    with timed():
        dataset = datasets.Dataset.from_generator(generate, features=features, cache_dir=str(out / "cache"))
        dataset.to_parquet(out / "train.parquet")
    assert len(dataset) == rows


def check_arm(root: Path, out: Path, rows: int) -> None:
    """``check_files`` on a finished conversion."""
    from verl_mars.data.check import check_files

    with timed():
        report = check_files(sorted(map(str, out.glob("*.parquet"))))
    assert report.ok and report.rows == rows


def verl_arm(root: Path, out: Path, rows: int) -> None:
    """verl's own reader on a finished conversion: load, and every row once."""
    from verl_mars.data.processor import standin_processor
    from verl_mars.data.validate import _verl_dataset

    processor = standin_processor()
    with tempfile.TemporaryDirectory(dir=root) as cache, timed():
        dataset = _verl_dataset(sorted(map(str, out.glob("*.parquet"))), processor, cache)
        for number in range(len(dataset)):
            dataset[number]
    assert len(dataset) == rows


ARMS = {
    "path": convert_arm("path", "manifest"),
    "path llvip": convert_arm("path", "llvip"),
    "embed": convert_arm("embed", "manifest"),
    "datasets": datasets_arm,
    "check": check_arm,
    "verl": verl_arm,
}


# The measuring


def measure(arm: str, root: Path, out: Path, rows: int, *, keep: bool = False) -> dict[str, float]:
    """Figures of one run in a fresh process, on a folder that is empty unless ``keep``."""
    if not keep:
        shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-W", "ignore", __file__, "--arm", arm, "--root", str(root), "--out", str(out)]
    environment = dict(os.environ, HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    done = subprocess.run([*command, "--rows", str(rows)], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{arm} failed:\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def make_raw(root: Path, rows: int) -> None:
    """A manifest of pairs and LLVIP's layout over the same pictures."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    pictures = root / "pictures"
    pictures.mkdir(parents=True)
    for number in range(PICTURES):
        noise = rng.normal(0, 9, (SIZE[1], SIZE[0], 3))
        shape = np.linspace(20, 200, SIZE[0])[None, :, None] + np.linspace(0, 40, SIZE[1])[:, None, None]
        Image.fromarray(np.clip(shape + noise, 0, 255).astype(np.uint8)).save(pictures / f"{number}.jpg", quality=70)
    voc = (
        "<annotation><size><width>1280</width><height>1024</height><depth>3</depth></size><object><name>person</name>"
        "<bndbox><xmin>10</xmin><ymin>20</ymin><xmax>110</xmax><ymax>320</ymax></bndbox></object></annotation>"
    )
    for folder in ("visible/train", "infrared/train", "Annotations"):
        (root / folder).mkdir(parents=True)
    with open(root / "manifest.jsonl", "w") as manifest:
        for number in range(rows):
            names = []
            for kind, shift in (("visible", 0), ("infrared", 1)):
                name = f"{kind}/train/{number:06d}.jpg"
                os.link(pictures / f"{(2 * number + shift) % PICTURES}.jpg", root / name)
                names.append({"name": kind, "images": name})
            (root / "Annotations" / f"{number:06d}.xml").write_text(voc)
            line = {"id": number, "question": "Is there a person?", "answer": "yes", "sources": names}
            manifest.write(json.dumps(line) + "\n")


def median(runs: list[dict[str, float]], key: str) -> float:
    """Median of one figure."""
    return statistics.median(run[key] for run in runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, default=100_000, help="the largest conversion in path mode")
    parser.add_argument("--embed-rows", type=int, default=2_000)
    parser.add_argument("--work", type=Path, default=None, help="where files go; they are removed at the end")
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        run_arm(options.arm, options.root, options.out, options.rows)
        return
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        result = benchmark(Path(folder), options)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(f"results: {RESULTS}")


def benchmark(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All measurements."""
    import datasets
    import PIL
    import pyarrow

    root, out = work / "raw", work / "out"
    print(f"making {options.rows} pairs of pictures ...", flush=True)
    make_raw(root, options.rows)
    size = statistics.mean(path.stat().st_size for path in (root / "pictures").iterdir())
    result: dict[str, Any] = {
        "python": platform.python_version(),
        "versions": {"pyarrow": pyarrow.__version__, "pillow": PIL.__version__, "datasets": datasets.__version__},
        "cores": os.cpu_count(),
        "repeats": options.repeats,
        "picture_kilobytes": round(size / 1024),
        "limits": LIMITS,
    }
    scaling = []
    counts = [count for count in (1_000, 10_000, 100_000) if count <= options.rows]
    print(f"\n{'path mode':24} {'rows/s':>8} {'us/row CPU':>11} {'MB':>6}")
    for rows in counts:
        runs = [measure("path", root, out, rows) for _ in range(options.repeats)]
        scaling.append(figures(f"manifest, {rows} rows", rows, runs))
    checked = [measure("check", root, out, counts[-1], keep=True) for _ in range(options.repeats)]
    result["check_files"] = figures("  check_files on these", counts[-1], checked)
    read = [measure("verl", root, out, counts[-1], keep=True)]
    result["verl_reader"] = figures("  verl's reader on these", counts[-1], read)
    runs = [measure("path llvip", root, out, counts[-1]) for _ in range(options.repeats)]
    result["path_llvip"] = figures(f"llvip, {counts[-1]} rows", counts[-1], runs)
    result["path"] = scaling
    # The first thousand rows carry the start: what ten thousand more rows cost is compared
    costs = [
        (large["cpu"] - small["cpu"]) / (large["rows"] - small["rows"])
        for small, large in zip(scaling, scaling[1:], strict=False)
    ]
    result["cost_growth"] = costs[-1] / costs[0] if len(costs) > 1 else None
    print(f"CPU time of a further row, last step over first: {result['cost_growth'] or float('nan'):.2f}")

    pairs = []
    for _ in range(options.repeats):
        ours = measure("embed", root, out, options.embed_rows)
        theirs = measure("datasets", root, out, options.embed_rows)
        pairs.append((ours, theirs))
    print(f"\n{'embed mode':24} {'rows/s':>8} {'us/row CPU':>11} {'MB':>6}")
    result["embed"] = figures("verl-mars", options.embed_rows, [ours for ours, _ in pairs])
    result["datasets"] = figures("datasets", options.embed_rows, [theirs for _, theirs in pairs])
    result["embed_speed"] = statistics.median(theirs["seconds"] / ours["seconds"] for ours, theirs in pairs)
    result["embed_cpu"] = statistics.median(theirs["cpu"] / ours["cpu"] for ours, theirs in pairs)
    result["embed_memory"] = statistics.median(ours["megabytes"] / theirs["megabytes"] for ours, theirs in pairs)
    print(
        f"verl-mars is {result['embed_speed']:.2f} times as fast ({result['embed_cpu']:.2f} times in CPU time) "
        f"and needs {result['embed_memory']:.2f} of the memory"
    )
    verdicts = {
        "rows_per_second": min(scaling[-1]["rows_per_second"], result["path_llvip"]["rows_per_second"]) >= 2000,
        "path_megabytes": max(part["megabytes"] for part in [*scaling, result["path_llvip"]]) < 500,
        "embed_speed": result["embed_speed"] >= 1.5,
        "embed_memory": result["embed_memory"] <= 0.5,
    }
    result["holds"] = verdicts
    print("  ".join(f"{name}: {'holds' if holds else 'FAILS'}" for name, holds in verdicts.items()))
    return result


def figures(name: str, rows: int, runs: list[dict[str, float]]) -> dict[str, float]:
    """Medians of some runs, printed as a line of the table."""
    found = {
        "rows": rows,
        "seconds": median(runs, "seconds"),
        "cpu": median(runs, "cpu"),
        "megabytes": median(runs, "megabytes"),
        "rows_per_second": rows / median(runs, "seconds"),
    }
    print(
        f"{name:24} {found['rows_per_second']:8.0f} {found['cpu'] / rows * 1e6:11.0f} {found['megabytes']:6.0f}",
        flush=True,
    )
    return found


if __name__ == "__main__":
    main()
