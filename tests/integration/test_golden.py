"""The metrics of the toy recipes as they were recorded, so that nothing changes them unseen. `make golden` records.

From random weights drawn from a seed, which are the same on every machine; a warm start would carry the rounding of
thousands of steps. Another machine rounds otherwise: hence tolerances, of which the mean is the sharper one. The reward
is the share of letters in an answer, so that no group is without a signal: where dynamic sampling drops groups, it
depends on timing how many prompts replace them, and with which prompt the next step begins.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path

import pytest
from drift import drift, numbers
from letters_reward import LETTERS

pytestmark = [pytest.mark.integration, pytest.mark.regress]

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent / "golden"
PACKAGES = ("verl", "torch", "transformers", "ray", "TransferQueue", "tensordict", "numpy")
MAXIMUM, MEAN = 5e-2, 1e-3

RECIPES = ("toy_mars_grpo", "toy_mars_dapo")


def environment():
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }


def refuse_a_dirty_tree():
    # But for the golden files themselves, of which another may just have been recorded.
    command = ["git", "status", "--porcelain", "--", ".", f":!{FOLDER.relative_to(ROOT)}"]
    status = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    if status.stdout.strip():
        pytest.fail(f"golden metrics are recorded from a clean tree only; commit these first:\n{status.stdout}")
    return subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("recipe", RECIPES)
def test_metrics_are_the_golden_ones(recipe, small_run):
    file = FOLDER / f"{recipe}.json"
    record = os.environ.get("GOLDEN") == "record"
    commit = refuse_a_dirty_tree() if record else None
    run = small_run(
        recipe,
        *LETTERS,
    )
    if record:
        steps = {}
        for (step, name), value in sorted(numbers(run.metrics).items()):
            steps.setdefault(str(step), {})[name] = value
        made = {"recorded": datetime.now(timezone.utc).date().isoformat(), "commit": commit}
        FOLDER.mkdir(exist_ok=True)
        file.write_text(json.dumps({**made, "environment": environment(), "steps": steps}, indent=1) + "\n")
        return
    golden = json.loads(file.read_text())
    steps = {int(step): values for step, values in golden["steps"].items()}
    here = environment()
    changed = {key: (old, here.get(key)) for key, old in golden["environment"].items() if here.get(key) != old}
    missing = numbers(steps).keys() - numbers(run.metrics).keys()
    assert not missing, f"metrics are gone: {sorted(missing)}"
    found = drift(run.metrics, steps)
    told = f"{found}; recorded {golden['recorded']} at {golden['commit'][:9]}; environment changed: {changed or 'no'}"
    assert found.maximum < MAXIMUM and found.mean < MEAN, told
