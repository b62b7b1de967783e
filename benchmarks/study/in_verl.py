"""One training of the study as a run of verl, which the loop is compared with.

The recipe ``toy_mars_grpo`` with the loop's track, warm start and frozen vision tower; ``grpo`` is verl's own estimator
in the same trainer mode. verl draws its batches and samples by seeds of its own, so a seed names another training here
than in the loop: the two are compared over seeds. Evaluated on the checkpoints, on the loop's scenes.
"""

import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from study.arms import ARMS, TRACKS, Arm, Key
from verl_mars.fields import FieldDict
from verl_mars.toy.evaluate import FUSED, Evaluation, HeldOut, evaluate, read_heldout
from verl_mars.toy.prepare import ToyPaths, prepare
from verl_mars.toy.runs import run_main

TIMEOUT_SECONDS = 3600
TRAINING = {
    "critic/score/mean": "reward",
    "mars/info_gain": "info_gain",
    "mars/shift_share": "shift_share",
    "mars/shift_share_solved": "shift_share_solved",
    "mars/pushed_up_unsolved": "pushed_up_unsolved",
}
"""verl's metric -> the loop's."""


def run(key: Key) -> FieldDict:
    """One run, as a line of the results.

    Raises:
        ValueError: a control that only the loop has.
        RuntimeError: the run failed; with the end of its log.
    """
    arm, track = ARMS[key.arm], TRACKS[key.track]
    if arm.shuffled:
        raise ValueError(f"arm {key.arm!r}: anchors are shuffled by the loop, not by verl; leave it out of --in-verl")
    paths = prepare(key.track, key.warm_start, progress=False)
    heldout = read_heldout(paths.heldout_file)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        finished = run_main(folder, "toy_mars_grpo", overrides(key, arm, paths, folder), seconds=TIMEOUT_SECONDS)
        if finished.returncode:
            raise RuntimeError(f"{key}: verl ended with {finished.returncode}:\n{finished.log[-3000:]}")
        evaluations = [_line(0, evaluate(paths.model, heldout), heldout)]
        for step in range(track.every, track.steps + 1, track.every):
            model = folder / "checkpoint" / f"global_step_{step}" / "actor" / "huggingface"
            views = None if step == track.steps else [FUSED]
            window = [finished.metrics[number] for number in range(step - track.every + 1, step + 1)]
            evaluations.append(
                _line(step, evaluate(model, heldout, views=views), heldout) | {"training": _means(window)}
            )
            shutil.rmtree(model.parent)
    return {**key.describe(), "evaluations": evaluations, "seconds": round(time.monotonic() - start, 1)}


def overrides(key: Key, arm: Arm, paths: ToyPaths, folder: Path) -> list[str]:
    """What the recipe is changed by."""
    track = TRACKS[key.track]
    settings = {
        "algorithm.adv_estimator": arm.estimator,
        **{f"algorithm.mars.{name}": value for name, value in arm.settings.items()},
        "data.train_files": paths.train_file,
        "data.val_files": paths.val_file,
        "data.seed": key.seed,
        "actor_rollout_ref.model.path": paths.model,
        "actor_rollout_ref.actor.freeze_vision_tower": "true",
        "actor_rollout_ref.actor.data_loader_seed": key.seed,
        "actor_rollout_ref.actor.checkpoint.save_contents": "[model,hf_model]",
        "actor_rollout_ref.rollout.seed": key.seed,
        "actor_rollout_ref.rollout.n": arm.rollouts,
        "trainer.total_training_steps": track.steps,
        "trainer.save_freq": track.every,
        "trainer.val_before_train": "false",
        "trainer.test_freq": -1,
        "trainer.default_local_dir": folder / "checkpoint",
    }
    return [f"{name}={value}" for name, value in settings.items()]


def _line(step: int, found: Evaluation, heldout: HeldOut) -> FieldDict:
    return {
        "step": step,
        "accuracy": found.accuracy(),
        "form": found.format_rate(),
        "by_regime": {regime: found.accuracy(regime=regime) for regime in sorted(set(heldout.regimes))},
        "alone": {source: found.accuracy(source) for source in found.sources},  # by name, the loop by position
    }


def _means(window: list[Mapping[str, float]]) -> dict[str, float]:
    known = {name: short for name, short in TRAINING.items() if any(name in step for step in window)}
    return {short: float(np.mean([step[name] for step in window if name in step])) for name, short in known.items()}
