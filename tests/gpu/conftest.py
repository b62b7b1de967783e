"""Skips what needs CUDA where there is none, and brings the runs of verl of the integration tests."""

from functools import partial
from pathlib import Path

import pytest
import torch

from verl_mars.toy import runs

PROBES = Path(__file__).parents[1] / "integration"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        item.add_marker(pytest.mark.gpu)
        if not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and there is none"))


@pytest.fixture(scope="session")
def run_main():
    """``run_main(folder, config_name, overrides)`` of the integration tests."""
    return partial(runs.run_main, path=PROBES)
