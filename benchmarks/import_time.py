"""Cost of the plugin for each process: the time of ``import verl`` with and without it, in turn.

    python benchmarks/import_time.py [--runs 7]

Prints medians and spread, and writes benchmarks/results/import_time.json.
"""

import argparse
import os
import statistics
import subprocess
import sys

import report

from verl_mars.fields import FieldDict

CODE = "import time; t = time.perf_counter(); import verl; print(time.perf_counter() - t)"
POLICIES = {"without": "none", "with": "auto"}


def seconds(policy: str) -> float:
    """One ``import verl`` in a fresh process."""
    env = dict(os.environ, VERL_USE_EXTERNAL_PLUGINS=policy)
    command = [sys.executable, "-W", "ignore", "-c", CODE]
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return float(run.stdout.strip().splitlines()[-1])


def table(result: FieldDict) -> str:
    cells = [(result[name]["median"], result[name]["min"], result[name]["max"]) for name in (*POLICIES, "added")]
    row = ["{:.2f} ({:.2f}-{:.2f})".format(*cell) for cell in cells]
    head = ["`import verl` without the plugin, s", "with it, s", "added, s"]
    return f"{report.where(result)} {result['pairs']} pairs.\n\n{report.markdown(head, [row])}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7, help="pairs of runs that count, after one that does not")
    runs = parser.parse_args().runs
    for policy in POLICIES.values():
        seconds(policy)
    pairs = [{name: seconds(policy) for name, policy in POLICIES.items()} for _ in range(runs)]
    result: FieldDict = report.about("verl", "torch", "transformers") | {"pairs": runs}
    seen = {name: [pair[name] for pair in pairs] for name in POLICIES}
    seen["added"] = [pair["with"] - pair["without"] for pair in pairs]
    for name, values in seen.items():
        result[name] = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    report.publish("import_time", result, table(result))


if __name__ == "__main__":
    main()
