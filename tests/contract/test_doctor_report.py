"""``verl-mars doctor``: its findings, and the JSON document that bug reports carry."""

import json
import subprocess
import sys

import pytest

from verl_mars.preflight.doctor import PluginState, RecipeState
from verl_mars.preflight.report import DoctorReport


def test_faults_say_where_they_were_found():
    report = DoctorReport(
        here=PluginState(versions={"verl": "0.9.1", "torch": "2.13.0"}, faults=["not loaded"]),
        ray_worker=PluginState(versions={"verl": "0.9.1", "torch": "2.11.0"}, faults=["no entry point"]),
        recipe=RecipeState(faults=["n = 0"], notes=["nothing checked"]),
        config_name="mars_grpo",
    )
    assert report.faults == [
        "not loaded",
        "inside a Ray worker: no entry point",
        "inside a Ray worker: torch is 2.11.0, here 2.13.0",
        "mars_grpo: n = 0",
    ]
    document = json.loads(report.to_json())
    assert document["faults"] == report.faults
    assert document["recipe"]["notes"] == ["nothing checked"]


def test_what_was_not_asked_is_null():
    document = json.loads(DoctorReport(here=PluginState()).to_json())
    assert document["ray_worker"] is None and document["recipe"] is None and document["faults"] == []


@pytest.mark.parametrize(
    ("override", "faulty"), [("algorithm.mars.anchor_every=1", False), ("algorithm.mars.anchor_every=0", True)]
)
def test_the_output_is_one_json_document(override, faulty):
    """Whatever verl, Hydra and the progress of the checks print while it is made goes to standard error."""
    command = [sys.executable, "-m", "verl_mars.cli", "doctor", "--json", "--no-ray", "--config-name", "mars_grpo"]
    run = subprocess.run([*command, override], capture_output=True, text=True, timeout=300)
    document = json.loads(run.stdout)
    assert run.returncode == int(faulty)
    assert bool(document["faults"]) == faulty
    if faulty:
        assert "algorithm.mars.anchor_every = 0" in document["faults"][0]
    assert document["plugin"]["loaded"] and document["plugin"]["versions"]["verl"] == "0.9.1"
    assert "mars" in document["plugin"]["registered"]["estimators"]
    assert document["recipe"]["overrides"] == [override]
    assert {"system", "architecture", "cpus", "accelerators", "cuda"} <= document["machine"].keys()
