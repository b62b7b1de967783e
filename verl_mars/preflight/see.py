"""``verl-mars doctor --see``: does the model of a recipe see its images, in the rollout engine and in the trainer?

Starts the recipe in a separate process, with all its models, up to the question that ``algorithm.probe.see`` asks
before the first step (:mod:`verl_mars.trainer.sight`), and ends it there.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from verl_mars.preflight.doctor import RecipeState
from verl_mars.rollout.validation import MARK

ROWS = 8
SECONDS = 3600
"""Longest time; large models take minutes to load."""

_LAST_LINES = 20


def see(config_name: str, overrides: Sequence[str] = (), rows: int = ROWS, seconds: float = SECONDS) -> RecipeState:
    """The findings about a model's sight; a run that does not get as far is a fault.

    Args:
        config_name: the recipe.
        overrides: of Hydra, as for the recipe.
        rows: of the training data, to look at.
        seconds: longest time.
    """
    ours = (f"algorithm.probe.see={rows}", "algorithm.probe.see_only=true", "trainer.v1.trainer_mode=mars_sync")
    quiet = ("trainer.logger=[console]", "trainer.resume_mode=disable", "trainer.val_before_train=false")
    added = [f"++{override}" for override in (*ours, *quiet)]
    with tempfile.TemporaryDirectory(prefix="verl_mars_see_") as folder:
        command = [sys.executable, "-m", "verl.trainer.main_ppo", f"--config-name={config_name}", *overrides, *added]
        log = Path(folder) / "see.log"
        ended = _run([*command, f"hydra.run.dir={folder}/hydra"], log, seconds)
        return findings(log.read_text(encoding="utf-8", errors="replace"), ended)


def findings(log: str, ended: str = "") -> RecipeState:
    """The findings in the log of a run.

    Args:
        log: its text.
        ended: why the run ended, if not by itself.
    """
    lines = log.splitlines()
    marked = next((line for line in lines if MARK in line), None)
    if marked is None:
        last = "\n".join(lines[-_LAST_LINES:])
        return RecipeState(
            faults=[f"--see: {ended or 'the run ended'} before the model was asked; its last lines:\n{last}"]
        )
    found, _ = json.JSONDecoder().raw_decode(marked.partition(MARK)[2])
    note = (
        f"the images of {found['rows']} rows move log-probs by {found['engine_difference']:.3f} nats in the rollout "
        f"engine and by {found['trainer_difference']:.3f} in the trainer; the two differ by "
        f"{found['fused_disagreement']:.4f} nats a token, by {found['blank_disagreement']:.4f} with grey images"
    )
    return RecipeState(faults=list(found["faults"]), notes=[note])


def _run(command: Sequence[str], log: Path, seconds: float) -> str:
    """Run a command in its own process group, so that Ray's processes end with it. Returns why it was ended."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            process.wait(timeout=seconds)
            return ""
        except subprocess.TimeoutExpired:
            return f"the run was ended after {seconds:.0f} s,"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(timeout=60)
