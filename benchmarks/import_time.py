"""What the plugin costs each process: the time of ``import verl`` with it and without, in turn.

    python benchmarks/import_time.py [--runs 7]

Prints medians and spread, and writes benchmarks/results/import_time.json.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

CODE = "import time; t = time.perf_counter(); import verl; print(time.perf_counter() - t)"
POLICIES = {"without": "none", "with": "auto"}


def seconds(policy: str) -> float:
    """One ``import verl`` in a fresh process."""
    env = dict(os.environ, VERL_USE_EXTERNAL_PLUGINS=policy)
    command = [sys.executable, "-W", "ignore", "-c", CODE]
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return float(run.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7, help="pairs of runs that count, after one that does not")
    runs = parser.parse_args().runs
    for policy in POLICIES.values():
        seconds(policy)
    pairs = [{name: seconds(policy) for name, policy in POLICIES.items()} for _ in range(runs)]
    result: dict[str, object] = {"python": platform.python_version(), "cores": os.cpu_count(), "pairs": runs}
    for name in POLICIES:
        values = [pair[name] for pair in pairs]
        result[name] = {"median": statistics.median(values), "min": min(values), "max": max(values)}
        median, spread = statistics.median(values), f"{min(values):.3f} to {max(values):.3f}"
        print(f"import verl {name:7} the plugin: median {median:.3f} s, {spread}")
    added = [pair["with"] - pair["without"] for pair in pairs]
    result["added_seconds_median"] = statistics.median(added)
    print(f"added: median {statistics.median(added):+.3f} s of {runs} pairs")
    file = Path(__file__).parent / "results" / "import_time.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(result, indent=1) + "\n")
    print(f"results: {file}")


if __name__ == "__main__":
    main()
