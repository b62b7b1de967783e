"""Skips what needs CUDA where there is none, brings the runs of verl, and shows what the cases measured.

``GPU_RESULTS=FILE`` writes the measurements to a file too, with date, device and versions.
"""

import json
import os
import platform
from datetime import date
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
import torch

from verl_mars.toy import runs

PROBES = Path(__file__).parents[1] / "integration"

PACKAGES = ("verl", "torch", "vllm", "transformers", "ray", "peft")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        item.add_marker(pytest.mark.gpu)
        if not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and there is none"))


@pytest.fixture(scope="session")
def run_main():
    """``run_main(folder, config_name, overrides, modules)``; modules come from the integration tests' folder."""
    return partial(runs.run_main, path=PROBES)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """A line for each step of each case. Kept by pytest with the reports, so that ``-n`` changes nothing."""
    cases = {}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            if getattr(report, "when", "") == "call" and report.user_properties:
                cases[report.nodeid.split("::")[-1]] = {
                    "outcome": outcome,
                    "metrics": dict(report.user_properties),
                }
    if not cases:
        return
    terminalreporter.section("measured")
    for name, case in cases.items():
        terminalreporter.write_line(f"{name}: {case['outcome']}")
        for key, value in case["metrics"].items():
            terminalreporter.write_line(f"    step {key} = {value:.4g}")
    if "GPU_RESULTS" in os.environ:
        import true_shapes

        result = {
            "date": date.today().isoformat(),
            "device": torch.cuda.get_device_name(),
            "versions": _versions(),
            "model": true_shapes.IN_WORDS,
            "cases": cases,
        }
        Path(os.environ["GPU_RESULTS"]).write_text(json.dumps(result, indent=1) + "\n")


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found | {"torch": torch.__version__}  # which CUDA it was built for
