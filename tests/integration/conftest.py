"""Runs of real verl in a process of their own, and the models they train."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
TIMEOUT_SECONDS = 420


@dataclass
class Run:
    """What a run of verl left."""

    returncode: int
    log: str
    metrics: dict[int, dict[str, float]] = field(default_factory=dict)
    """By step; 0 is the validation before training."""


def run_main(
    folder: Path,
    config_name: str,
    overrides: Sequence[str],
    modules: Sequence[str] = (),
    env: dict[str, str] | None = None,
) -> Run:
    """``python -m verl.trainer.main_ppo --config-name=...`` in ``folder``, ended with all its children after a while."""
    command = [sys.executable, "-W", "ignore", "-m", "verl.trainer.main_ppo", f"--config-name={config_name}"]
    command += ["trainer.logger=[file]", "trainer.save_freq=-1", *overrides]
    environment = dict(os.environ, RAY_USAGE_STATS_ENABLED="0", HYDRA_FULL_ERROR="1", **(env or {}))
    environment |= {"PYTHONPATH": str(HERE), "VERL_FILE_LOGGER_PATH": str(folder / "metrics.jsonl")}
    if modules:
        environment["VERL_USE_EXTERNAL_MODULES"] = ",".join(modules)
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            process.wait(TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    run = Run(process.returncode, (folder / "log.txt").read_text(errors="replace"))
    if (folder / "metrics.jsonl").exists():
        for line in (folder / "metrics.jsonl").read_text().splitlines():
            entry = json.loads(line)
            run.metrics.setdefault(entry["step"], {}).update(entry["data"])
    return run


@pytest.fixture(scope="session")
def run_verl(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function that runs a recipe and returns its :class:`Run`; a run that fails fails the test with its last lines."""

    def run(config_name: str, *overrides: str, fails: bool = False, **options: Any) -> Run:
        result = run_main(tmp_path_factory.mktemp("run"), config_name, overrides, **options)
        if fails != (result.returncode != 0):
            pytest.fail(f"verl ended with {result.returncode}:\n" + "\n".join(result.log.splitlines()[-60:]))
        return result

    return run


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy model with random weights."""
    from verl_mars.toy import model

    folder = tmp_path_factory.mktemp("tiny_model")
    model.save(model.build_model(seed=0), folder)
    return folder
