"""Runs of verl's main function, each in its own process group: for the demo, the tests and the benchmarks."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

TIMEOUT_SECONDS = 420.0
PORT_TAKEN = "DistNetworkError: The server socket has failed to listen on any local network address"


@dataclass(frozen=True)
class Metrics:
    """Metrics of a training, as verl's file logger wrote them.

    Attributes:
        steps: step -> metric -> value. Step 0 is the validation before training.
    """

    steps: Mapping[int, Mapping[str, float]]

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of a metric, without the steps that lack it."""
        pairs = [(step, data[name]) for step, data in sorted(self.steps.items()) if name in data]
        return [step for step, _ in pairs], [value for _, value in pairs]

    def under(self, prefix: str) -> list[str]:
        """The rest of each metric name that starts with `prefix`, sorted."""
        names = {name for data in self.steps.values() for name in data if name.startswith(prefix)}
        return sorted(name.removeprefix(prefix) for name in names)


def read_metrics(file: Path, partial: bool = False) -> Metrics:
    """Read a JSONL file of verl's file logger: lines ``{"step": int, "data": {name: number}}``.

    Args:
        file: the file.
        partial: the file is still being written; ignore a last line that is incomplete.

    Raises:
        ValueError: a line of another form, naming it.
    """
    text = file.read_text(encoding="utf-8")
    lines = text.split("\n")
    unfinished = lines.pop()  # what follows the last newline: nothing, unless a line is being written
    if unfinished and not partial:
        lines.append(unfinished)
    steps: dict[int, dict[str, float]] = {}
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            step, data = entry["step"], entry["data"]
            numbers = {name: float(value) for name, value in data.items() if isinstance(value, int | float)}
            steps.setdefault(int(step), {}).update(numbers)
        except (json.JSONDecodeError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f'{file}, line {number}: not a line {{"step": .., "data": {{..}}}} of metrics') from error
    return Metrics(steps)


@dataclass
class FinishedRun:
    """Result of a run of verl.

    Attributes:
        returncode: exit code; negative if a signal ended the process.
        log: standard output and standard error.
        metrics: step -> metric -> value. Step 0 is the validation before training.
    """

    returncode: int
    log: str
    metrics: Mapping[int, Mapping[str, float]] = field(default_factory=dict)


def command_line(config_name: str, overrides: Sequence[str], python_options: Sequence[str] = ()) -> list[str]:
    """The command that trains by a recipe."""
    return [sys.executable, *python_options, "-m", "verl.trainer.main_ppo", f"--config-name={config_name}", *overrides]


def environment(metrics_file: Path, **variables: str) -> dict[str, str]:
    """The caller's environment, with what every run of ours needs and with these variables."""
    return {
        **os.environ,
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray's defaults of 30 s, for the raylet and for its agent, are too short while other runs keep the cores busy.
        "RAY_raylet_start_wait_time_s": os.environ.get("RAY_raylet_start_wait_time_s", "300"),
        "RAY_agent_register_timeout_ms": os.environ.get("RAY_agent_register_timeout_ms", "300000"),
        "VERL_FILE_LOGGER_PATH": str(metrics_file),
        **variables,
    }


@contextmanager
def started(
    command: Sequence[str], folder: Path, log_file: Path, variables: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A running command. On leaving, its whole process group is ended; Ray's own processes end with their driver."""
    with open(log_file, "ab") as log:
        # Its own session, so that everything it starts can be ended with it.
        process = subprocess.Popen(
            command, cwd=folder, env=dict(variables), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            yield process
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(15)
    with suppress(ProcessLookupError):  # the group is empty
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run_main(
    folder: Path,
    config_name: str,
    overrides: Sequence[str],
    modules: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    path: Path | None = None,
    seconds: float = TIMEOUT_SECONDS,
) -> FinishedRun:
    """Train by a recipe and wait for the end.

    A run whose ranks found their port taken is repeated once: verl looks for a free port, releases it, and binds it
    seconds later, after all imports, when a process of another run may have it.

    Args:
        folder: working directory; ``log.txt`` and ``metrics.jsonl`` are written there.
        config_name: the recipe.
        overrides: Hydra overrides.
        modules: modules that verl loads in every process of the run.
        env: further environment variables.
        path: a folder to import ``modules`` from.
        seconds: a run that takes longer is ended.
    """
    metrics_file = folder / "metrics.jsonl"
    # In the runtime environment too: a cluster that is already running does not have the driver's environment.
    logger = f"++ray_kwargs.ray_init.runtime_env.env_vars.VERL_FILE_LOGGER_PATH={metrics_file}"
    fixed = ["trainer.logger=[file]", "trainer.save_freq=-1", logger]
    variables = environment(metrics_file, HYDRA_FULL_ERROR="1", **(env or {}))
    if path is not None:
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, [str(path), variables.get("PYTHONPATH")]))
    if modules:
        variables["VERL_USE_EXTERNAL_MODULES"] = ",".join(modules)
    command = command_line(config_name, [*fixed, *overrides], ["-W", "ignore"])
    run = _run_once(command, folder, variables, seconds)
    if run.returncode and PORT_TAKEN in run.log:
        run = _run_once(command, folder, variables, seconds)
    if metrics_file.exists():
        run.metrics = read_metrics(metrics_file, partial=True).steps
    return run


def _run_once(command: Sequence[str], folder: Path, variables: Mapping[str, str], seconds: float) -> FinishedRun:
    log_file = folder / "log.txt"
    log_file.unlink(missing_ok=True)
    with started(command, folder, log_file, variables) as process, suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    return FinishedRun(process.returncode, log_file.read_text(errors="replace"))
