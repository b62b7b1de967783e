"""One training of the study as a run of verl, to compare the loop with.

The arm's recipe with the loop's track, warm start and frozen vision tower, all in one trainer mode. verl seeds its
batches and samples in another way, so a seed names another training here than in the loop: the two are compared over
seeds. Evaluated on the checkpoints, on the loop's scenes.
"""

import shutil
import tempfile
import time
from pathlib import Path

from study.advantages import means, recorded
from study.arms import TRACKS, Arm, Key, arms_in_verl
from study.runs import digest
from verl_mars.fields import FieldDict
from verl_mars.toy.demo import overrides, training_settings
from verl_mars.toy.evaluate import FUSED, Evaluation, evaluate, model_folder, read_heldout
from verl_mars.toy.prepare import ToyPaths, prepare
from verl_mars.toy.runs import run_main

TIMEOUT_SECONDS = 3600


def run(key: Key) -> FieldDict:
    """One run, as a line of the results.

    Raises:
        ValueError: a control that only the loop has.
        RuntimeError: the run failed; with the end of its log.
    """
    (arm,) = arms_in_verl([key.arm])
    track = TRACKS[key.track]
    paths = prepare(key.track, key.warm_start, progress=False)
    heldout = read_heldout(paths.heldout_file)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        changes = overrides(settings_of(key, arm, paths, folder))
        finished = run_main(folder, arm.recipe, changes, seconds=TIMEOUT_SECONDS)
        if finished.returncode:
            raise RuntimeError(f"{key}: verl ended with {finished.returncode}:\n{finished.log[-3000:]}")
        evaluations = [_line(0, evaluate(paths.model, heldout))]
        for step in range(track.every, track.steps + 1, track.every):
            saved = folder / "checkpoint" / f"global_step_{step}"
            views = None if step == track.steps else [FUSED]
            steps = [finished.metrics[number] for number in range(step - track.every + 1, step + 1)]
            window = [{"reward": metrics["critic/score/mean"], **recorded(metrics)} for metrics in steps]
            found = evaluate(model_folder(saved), heldout, views=views)
            evaluations.append(_line(step, found) | {"training": means(window)})
            shutil.rmtree(saved)
    about = {"weights": digest(paths.model)}
    return {**key.describe(), **about, "evaluations": evaluations, "seconds": round(time.monotonic() - start, 1)}


def settings_of(key: Key, arm: Arm, paths: ToyPaths, folder: Path) -> dict[str, object]:
    """What the recipe is changed by."""
    track = TRACKS[key.track]
    return {
        **training_settings(paths, folder, track.steps, key.seed),
        "algorithm.adv_estimator": arm.estimator,
        **{f"algorithm.{arm.estimator}.{name}": value for name, value in arm.settings.items()},
        "trainer.v1.trainer_mode": "mars_sync",
        "actor_rollout_ref.actor.freeze_vision_tower": "true",
        "actor_rollout_ref.actor.checkpoint.save_contents": "[model,hf_model]",
        "actor_rollout_ref.rollout.n": arm.rollouts,
        "actor_rollout_ref.rollout.top_p": arm.top_p,
        "trainer.save_freq": track.every,
    }


def _line(step: int, found: Evaluation) -> FieldDict:
    def by_regime(view: str) -> dict[str, float]:
        return {regime: found.accuracy(view, regime) for regime in found.regimes}

    return {
        "step": step,
        "accuracy": found.accuracy(),
        "form": found.format_rate(),
        "by_regime": by_regime(FUSED),
        "alone": {source: found.accuracy(source) for source in found.sources},  # by name, the loop by position
        "alone_by_regime": {source: by_regime(source) for source in found.sources},
    }
