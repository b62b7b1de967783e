"""Runs of real verl in a process of their own: for these tests, for tests/gpu and for benchmarks/step_time.py."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
TIMEOUT_SECONDS = 420
PORT_TAKEN = "DistNetworkError: The server socket has failed to listen on any local network address"


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
    path: Path = HERE,
    seconds: float = TIMEOUT_SECONDS,
) -> Run:
    """``python -m verl.trainer.main_ppo --config-name=...`` in ``folder``; ended with its children after ``seconds``.

    ``modules`` are loaded into every process, and lie in the folder ``path``.

    Once more where the ranks' port was taken: verl finds a free one, gives it up, and binds it seconds later, when all
    is imported; a process of another run can have it by then.
    """
    command = [sys.executable, "-W", "ignore", "-m", "verl.trainer.main_ppo", f"--config-name={config_name}"]
    metrics_file = folder / "metrics.jsonl"
    # In the runtime environment too: a cluster that is already running does not have the environment of the driver.
    logger = f"++ray_kwargs.ray_init.runtime_env.env_vars.VERL_FILE_LOGGER_PATH={metrics_file}"
    command += ["trainer.logger=[file]", "trainer.save_freq=-1", logger, *overrides]
    environment = dict(os.environ, RAY_USAGE_STATS_ENABLED="0", HYDRA_FULL_ERROR="1", **(env or {}))
    environment |= {"PYTHONPATH": str(path), "VERL_FILE_LOGGER_PATH": str(metrics_file)}
    environment["RAY_raylet_start_wait_time_s"] = "120"  # Ray's 30 are too few where other runs keep the cores busy
    if modules:
        environment["VERL_USE_EXTERNAL_MODULES"] = ",".join(modules)
    run = _process(command, folder, environment, seconds)
    if run.returncode and PORT_TAKEN in run.log:
        run = _process(command, folder, environment, seconds)
    if metrics_file.exists():
        for line in metrics_file.read_text().splitlines():
            entry = json.loads(line)
            run.metrics.setdefault(entry["step"], {}).update(entry["data"])
    return run


def _process(command: Sequence[str], folder: Path, environment: dict[str, str], seconds: float) -> Run:
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return Run(process.returncode, (folder / "log.txt").read_text(errors="replace"))
