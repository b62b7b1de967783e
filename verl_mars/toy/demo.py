"""``verl-mars demo``: the world, a warm start, training with verl, evaluation, pictures.

The training is an ordinary run of verl with one of our recipes, in a separate process:
``python -m verl.trainer.main_ppo --config-name=toy_mars_grpo ...``. The whole command is the first line of its log.
"""

import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from verl_mars.errors import UsageError, UserError
from verl_mars.fields import FieldDict
from verl_mars.interrupts import obey_interrupt
from verl_mars.toy.prepare import ToyPaths, prepare
from verl_mars.toy.runs import command_line, environment, read_metrics, started

_TOY, _SHARED = "toy_", "toy_base"


def _algorithms() -> dict[str, str]:
    """The toy recipes by the name of their algorithm, without ``_grpo``: ``mars`` for ``toy_mars_grpo``."""
    recipes = sorted(
        entry.name.removesuffix(".yaml")
        for entry in files("verl_mars.recipes").iterdir()
        if entry.name.startswith(_TOY) and entry.name.endswith(".yaml")
    )
    return {recipe.removeprefix(_TOY).removesuffix("_grpo"): recipe for recipe in recipes if recipe != _SHARED}


RECIPES: Mapping[str, str] = _algorithms()
STALLED_SECONDS = 600.0
"""Longest time without a new step before the training is ended. A step takes seconds, the start under two minutes."""

_LAST_LINES = 40
_POLL_SECONDS = 0.5


class DemoError(UserError):
    """The training failed; the message has the last lines of its log."""


def demo(
    out: str | Path = "outputs/demo",
    steps: int = 40,
    seed: int = 0,
    track: str = "default",
    algorithm: str = "mars",
) -> FieldDict:
    """Run the demo, write its results to `out`, and return the summary. Same seed, same numbers.

    Writes ``summary.json``, ``metrics.jsonl``, ``curve.png``, ``samples.png``, ``checkpoint/``, ``train.log``,
    ``rollouts/`` (every training response), ``rollouts.html`` (the last step's, with images, rewards and advantages)
    and ``hydra/`` (the configuration). Results of an earlier demo are replaced.

    Raises:
        ValueError: an unknown track or algorithm, or fewer than one step.
        DemoError: the training failed.
    """
    if algorithm not in RECIPES:
        raise UsageError(f"unknown algorithm {algorithm!r}; allowed: {sorted(RECIPES)}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    console, folder = Console(), Path(out).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = {}

    with _timed(seconds, "prepare"):
        paths = prepare(track, seed)
    from verl_mars.reports.rollouts import write_rollouts_page
    from verl_mars.toy.evaluate import evaluate, latest_checkpoint, read_heldout
    from verl_mars.toy.pictures import draw_curve, draw_samples
    from verl_mars.toy.report import Run, other_seeds, summarize, table, write_summary

    heldout = read_heldout(paths.heldout_file)
    with _timed(seconds, "evaluate"), console.status(f"evaluating the warm start on {len(heldout)} scenes"):
        before = evaluate(paths.model, heldout)
    with _timed(seconds, "train"):
        train(paths, folder, steps, seed, algorithm, console)
    with _timed(seconds, "evaluate"), console.status(f"evaluating the trained model on {len(heldout)} scenes"):
        after = evaluate(latest_checkpoint(folder / "checkpoint"), heldout)

    metrics = read_metrics(folder / "metrics.jsonl")
    title = f"{algorithm.upper().replace('_', ' + ')} on the toy world: {steps} steps, track {track}, seed {seed}"
    with console.status("drawing"):
        draw_curve(metrics, before, after, title, folder / "curve.png")
        draw_samples(before, after, folder / "samples.png")
    summary = summarize(Run(seed, track, algorithm, steps, seconds), before, after, metrics)
    write_summary(summary, folder / "summary.json")
    write_rollouts_page(folder / "rollouts" / f"{steps}.jsonl", folder / "rollouts.html")
    console.print(table(before, after))
    phases = ", ".join(f"{phase} {value:.0f} s" for phase, value in seconds.items())
    console.print(f"{title}. {phases}.", soft_wrap=True, highlight=False)
    if (seeds := other_seeds(track, steps)) is not None:
        console.print(seeds, soft_wrap=True, highlight=False)
    console.print("results:", str(folder), soft_wrap=True, highlight=False)
    return summary


def train(paths: ToyPaths, folder: Path, steps: int, seed: int, algorithm: str, console: Console) -> None:
    """Train with verl in a separate process and show its progress.

    Raises:
        DemoError: the training failed or stalled; the message has the end of its log.
    """
    for name in ("checkpoint", "rollouts", "hydra"):
        shutil.rmtree(folder / name, ignore_errors=True)
    metrics_file, log_file = folder / "metrics.jsonl", folder / "train.log"
    metrics_file.unlink(missing_ok=True)
    command = training_command(paths, folder, steps, seed, algorithm)
    log_file.write_text(shlex.join(command) + "\n", encoding="utf-8")
    with started(command, Path.cwd(), log_file, environment(metrics_file)) as process, _terminated_as_exit():
        stalled = _watch(process, metrics_file, steps, console)
    if stalled:
        raise DemoError(_failure(f"training reported no step for {STALLED_SECONDS:.0f} seconds", log_file))
    if process.returncode != 0:
        raise DemoError(_failure(f"training ended with exit code {process.returncode}", log_file))


def training_command(paths: ToyPaths, folder: Path, steps: int, seed: int, algorithm: str) -> list[str]:
    """The command line of the training: verl's main function, our recipe, paths and seeds."""
    settings = training_settings(paths, folder, steps, seed) | {
        "trainer.total_epochs": -(-steps // 100),  # an epoch has 250 steps; the number of steps ends the run
        "trainer.logger": "[file]",
        "trainer.rollout_data_dir": folder / "rollouts",
        "hydra.run.dir": folder / "hydra",
    }
    return command_line(RECIPES[algorithm], overrides(settings))


def training_settings(paths: ToyPaths, folder: Path, steps: int, seed: int) -> dict[str, object]:
    """Paths, seeds and checkpoints of a training that is evaluated on its checkpoints: the demo's and the study's."""
    return {
        "data.train_files": paths.train_file,
        "data.val_files": paths.val_file,
        "data.seed": seed,
        "actor_rollout_ref.model.path": paths.model,
        "actor_rollout_ref.actor.data_loader_seed": seed,
        "actor_rollout_ref.rollout.seed": seed,
        # The folder that transformers loads, beside what verl resumes from.
        "actor_rollout_ref.actor.checkpoint.save_contents": "[model,optimizer,extra,hf_model]",
        "trainer.total_training_steps": steps,
        "trainer.save_freq": steps,
        # Held-out scenes are more than verl's validation file has.
        "trainer.val_before_train": "false",
        "trainer.test_freq": -1,
        "trainer.default_local_dir": folder / "checkpoint",
    }


def overrides(settings: Mapping[str, object]) -> list[str]:
    """Settings as Hydra's overrides."""
    return [f"{key}={_hydra(value)}" for key, value in settings.items()]


def _hydra(value: object) -> str:
    """A value in Hydra's override grammar. Paths are quoted because they may have spaces and equal signs."""
    if isinstance(value, Path):
        escaped = str(value).replace("\\", "\\\\").replace("'", "\\'")
        return f"'{escaped}'"
    return str(value)


def _watch(process: subprocess.Popen[bytes], metrics_file: Path, steps: int, console: Console) -> bool:
    """Show each step as it is reported until the process ends. True if it stalled."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("step {task.completed} of {task.total}"),
        TextColumn("[cyan]{task.fields[numbers]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("starting verl", total=steps, numbers="")
        done, last_news, size = 0, time.monotonic(), -1
        while process.poll() is None:
            time.sleep(_POLL_SECONDS)
            obey_interrupt()
            if metrics_file.exists() and (now := metrics_file.stat().st_size) != size:
                size, last_news = now, time.monotonic()
                metrics = read_metrics(metrics_file, partial=True)
                done = max(metrics.steps, default=0)
                if done:
                    numbers = _numbers(metrics.steps[done])
                    progress.update(task, description="training", completed=done, numbers=numbers)
                    if not console.is_terminal and (done % 10 == 0 or done in (1, steps)):
                        console.print(f"step {done} of {steps}: {numbers}", highlight=False)
            if time.monotonic() - last_news > STALLED_SECONDS:
                return True
        if process.returncode == 0:
            progress.update(task, description="trained", completed=steps)
    return False


def _numbers(step: Mapping[str, float]) -> str:
    parts = {"reward {:.2f}": "critic/score/mean", "information gain {:+.2f}": "mars/info_gain"}
    return ", ".join(text.format(step[name]) for text, name in parts.items() if name in step)


def _failure(what: str, log_file: Path) -> str:
    lines = log_file.read_text(encoding="utf-8", errors="replace").splitlines()
    return f"{what}. The end of {log_file}:\n" + "\n".join(lines[-_LAST_LINES:])


@contextmanager
def _terminated_as_exit() -> Iterator[None]:
    """Unwind on SIGTERM (``timeout``, CI) as on Ctrl-C, so that the training never outlives its demo."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[phase] = seconds.get(phase, 0.0) + time.monotonic() - start
