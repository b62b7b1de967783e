"""Step time of MARS against GRPO, and of one request against two phases: ``python benchmarks/step_time.py``.

Real verl on a CPU: the recipe ``toy_mars_grpo``, its warm-started model, rollout engine ``transformers``, n rollouts of
16 prompts a step. The steps of one run are in turn

- ``grpo``: the same trainer mode with ``algorithm.adv_estimator=grpo``, no anchors;
- ``mars``: the product, whose mono sessions go to the engine in the same request as the fused ones;
- ``two_phase``: the authors' way; all mono sessions of the batch, then all fused ones (``step_time_two_phase.py``).

Three steps make a block: all arms, on the same prompts, one after the other, in an order that changes from block to
block. So whatever slows the machine slows all arms, and the ratios are those of steps of one block. The first blocks do
not count. K is the number of anchors a prompt; each K is a separate run with its own rows:

- 2: the toy's rows, two pictures and two sources;
- 1: the same rows, but every second one lists its two pictures as one source. A prompt of one source has no anchor (its
  mono view is its fused view), so that K is 1 on average, and exactly 1 in every batch;
- 6: six pictures of the toy world, six sources.

What is written: seconds of a step (verl's ``timing_s/step``); of its generation, from the submission of the prompts to
the sampled batch (``timing_s/submit``, which is this benchmark's, and ``timing_s/gen``); of the training after it;
tokens sampled. For each their medians and quartiles over blocks, and for ratios the median over blocks with its 95%
interval (bootstrap).

The token bound (n+K)/n is the ratio of the *sequences that are generated*, and of generated tokens where answers are
equally long. It says nothing of what a step does after generation, which does not depend on K: the ratio of step times
is expected below it. ``holds`` says whether the step time of MARS is at most 1.05 x that bound, and whether its ratio
to that of two phases has an interval that is not above 1.

``--part K`` measures one K and leaves the others' figures as they are: 8 to 20 minutes on 2 cores.
"""

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import report
from step_time_arms import ARMS, arm_of, refuse_other_arm

from verl_mars.fields import FieldDict
from verl_mars.toy.runs import run_main

PROMPTS = 16
PARTS = (1, 2, 6)
PICTURES = {1: 2, 2: 2, 6: 6}
SLACK = 1.05
TIMEOUT_SECONDS = 3600
PHASES = {"step": ("step",), "generation": ("submit", "gen"), "training": ("old_log_prob", "adv", "update_actor")}
"""Timers of verl that are added up."""

Steps = list[dict[str, float]]


def toy_rows(
    k: int, batches: int, folder: Path, arms: int = len(ARMS), prompts: int = PROMPTS, side: int | None = None
) -> Iterator[FieldDict]:
    """Rows of so many batches, each of which comes once for each arm, and the pictures that they name.

    Args:
        k: anchors a prompt.
        batches: batches.
        folder: where the pictures are written.
        arms: how often each batch comes.
        prompts: rows of a batch.
        side: width and height of a picture; ``None``: as the toy world draws it.
    """
    from PIL import Image

    from verl_mars.toy.rows import make_row
    from verl_mars.toy.world import IMAGES, TRAINING, make_scenes

    pictures = PICTURES[k]
    scenes = make_scenes(batches * prompts * pictures // IMAGES, 0, TRAINING)
    made: list[FieldDict] = []
    for prompt in range(batches * prompts):
        own = range(prompt * pictures // IMAGES, (prompt + 1) * pictures // IMAGES)
        paths = [str(folder / f"{scene}_{number}.png") for scene in own for number in range(IMAGES)]
        shots = scenes.images[own.start : own.stop].reshape(pictures, *scenes.images.shape[2:])
        for path, pixels in zip(paths, shots, strict=True):
            picture = Image.fromarray(pixels)
            if side is not None:
                picture = picture.resize((side, side), Image.Resampling.NEAREST)
            picture.save(path, compress_level=1)
        row = make_row(scenes, own.start, "train", paths)
        names = row["extra_info"]["sources"] if pictures == IMAGES else [f"camera_{n + 1}" for n in range(pictures)]
        shown = {name: [number] for number, name in enumerate(names)}
        if k == 1 and prompt % 2:
            shown = {"both": [0, 1]}
        row["prompt"][0]["content"] = "<image>" * pictures + scenes.question(own.start)
        row["sources"] = [
            {"name": name, "images": images, "prompt": None, "ground_truth": None} for name, images in shown.items()
        ]
        size = row["extra_info"]["image_sizes"][0] if side is None else [side, side]
        row["extra_info"] |= {"sources": list(shown), "image_sizes": [size] * pictures}
        made.append(row)
    batch_prompts = [range(batch * prompts, (batch + 1) * prompts) for batch in range(batches)]
    order = [prompt for batch in batch_prompts for _ in range(arms) for prompt in batch]
    for index, prompt in enumerate(order):
        yield made[prompt] | {"extra_info": made[prompt]["extra_info"] | {"index": index, "sample_id": str(index)}}


def write_data(
    k: int, blocks: int, folder: Path, arms: int = len(ARMS), prompts: int = PROMPTS, side: int | None = None
) -> Path:
    """The training file of a run; arguments as those of :func:`toy_rows`."""
    import pyarrow as pa

    from verl_mars.data.schema import arrow_schema, write_rows

    file = folder / "train.parquet"
    texts = {"regime": pa.string(), "thought": pa.string(), "sufficient": pa.list_(pa.string())}
    write_rows(file, toy_rows(k, blocks, folder, arms, prompts, side), schema=arrow_schema(extra_info=texts))
    return file


def train(k: int, rollouts: int, blocks: int, folder: Path) -> Steps:
    """The metrics of each step of a run of `blocks` blocks."""
    from verl_mars.toy.prepare import prepare

    file = write_data(k, blocks, folder)
    overrides = [
        *(f"data.train_files={file}", f"data.val_files={file}", "data.shuffle=false"),
        *(f"actor_rollout_ref.model.path={prepare().model}", f"actor_rollout_ref.rollout.n={rollouts}"),
        # Six pictures need more than the toy's 64 tokens.
        *("data.max_prompt_length=84", "actor_rollout_ref.rollout.max_model_len=96"),
        *(f"data.train_batch_size={PROMPTS}", f"trainer.total_training_steps={blocks * len(ARMS)}"),
        *("trainer.val_before_train=false", "trainer.test_freq=-1"),
    ]
    here, modules = Path(__file__).parent, ["step_time_plugin"]
    run = run_main(folder, "toy_mars_grpo", overrides, modules, path=here, seconds=TIMEOUT_SECONDS)
    if run.returncode:
        raise SystemExit("verl failed:\n" + "\n".join(run.log.splitlines()[-60:]))
    return [run.metrics[step] for step in sorted(run.metrics)]


def figures(metrics: dict[str, float], k: int, rollouts: int) -> dict[str, float]:
    """Seconds and tokens of a step, from verl's metrics."""
    found = {name: sum(metrics[f"timing_s/{timer}"] for timer in timers) for name, timers in PHASES.items()}
    anchors = metrics.get("mars/anchor_tokens", 0.0)
    found["fused_answer"] = metrics["response_length/mean"]
    found["mono_answer"] = anchors / (PROMPTS * k)
    found["tokens"] = metrics["response_length/mean"] * PROMPTS * rollouts + anchors
    return found


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": round(middle, 4), "low": round(low, 4), "high": round(high, 4)}


def interval(values: list[float]) -> dict[str, float]:
    """Median, and the 95% interval that resampling the blocks gives it."""
    import numpy as np
    from scipy.stats import bootstrap

    found = bootstrap((values,), np.median, method="percentile", rng=np.random.default_rng(0)).confidence_interval
    return {"median": round(statistics.median(values), 4), "low": round(found.low, 4), "high": round(found.high, 4)}


def summary(metrics: Steps, k: int, rollouts: int, discard: int) -> FieldDict:
    """The figures of a run."""
    arms: dict[str, Steps] = {arm: [] for arm in ARMS}
    for step, data in enumerate(metrics, 1):
        arm = arm_of(step)
        refuse_other_arm(step, arm, data)
        if step > discard * len(ARMS):
            arms[arm].append(figures(data, k, rollouts))
    result: FieldDict = {"rollouts": rollouts, "blocks": len(arms["grpo"]), "arms": {}}
    for arm, steps in arms.items():
        result["arms"][arm] = {name: spread([step[name] for step in steps]) for name in steps[0]}
    for arm, other in (("mars", "grpo"), ("two_phase", "grpo"), ("mars", "two_phase")):
        pairs = list(zip(arms[arm], arms[other], strict=True))
        result[f"{arm}/{other}"] = {
            name: interval([one[name] / two[name] for one, two in pairs]) for name in ("step", "generation", "tokens")
        }
        result[f"{arm}/{other}"]["below"] = sum(one["step"] < two["step"] for one, two in pairs)
    bound = (rollouts + k) / rollouts
    result["token_bound"] = bound
    result["holds"] = {
        "token_bound": result["mars/grpo"]["step"]["median"] <= SLACK * bound,
        "two_phase": result["mars/two_phase"]["step"]["low"] <= 1,  # not shown to be slower
    }
    return result


def table(result: FieldDict) -> str:
    """All figures in Markdown."""
    rows, verdicts = [], []
    for k, part in result["parts"].items():
        for arm, found in part["arms"].items():
            times = [_cell(found[name], 2) for name in PHASES]
            rows.append([k, f"`{arm}`", *times, f"{found['tokens']['median']:.0f}"])
        bound = part["token_bound"]
        ratios = [_cell(part[pair][name], 3) for pair, name in _RATIOS]
        holds = "yes" if all(part["holds"].values()) else "**no**"
        verdicts.append([k, str(part["blocks"]), *ratios, f"{bound:.3f}", f"{SLACK * bound:.3f}", holds])
    seconds = report.markdown(["K", "arm", *(f"{name}, s" for name in PHASES), "tokens"], rows)
    head = [
        "K",
        "blocks",
        *(f"{name}, `{pair.replace('/', '` / `')}`" for pair, name in _RATIOS),
        "(n+K)/n",
        "at most",
        "holds",
    ]
    return "\n\n".join([report.where(result), seconds, report.markdown(head, verdicts)])


_RATIOS = (
    ("mars/grpo", "step"),
    ("mars/grpo", "generation"),
    ("mars/two_phase", "step"),
    ("mars/two_phase", "generation"),
)


def _cell(found: dict[str, float], digits: int) -> str:
    return f"{found['median']:.{digits}f} ({found['low']:.{digits}f}-{found['high']:.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", type=int, choices=PARTS, action="append", help="K; may be given several times")
    parser.add_argument("--rollouts", type=int, default=8, help="n")
    parser.add_argument("--blocks", type=int, default=30, help="blocks of three steps that count")
    parser.add_argument("--discard", type=int, default=1, help="blocks before them")
    parser.add_argument("--keep", type=Path, help="where verl's log and metrics stay")
    options = parser.parse_args()
    parts = report.read("step_time").get("parts", {})
    for k in options.part or PARTS:
        with tempfile.TemporaryDirectory() as temporary:
            folder = options.keep / str(k) if options.keep else Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            metrics = train(k, options.rollouts, options.discard + options.blocks, folder.resolve())
        parts[str(k)] = summary(metrics, k, options.rollouts, options.discard)
        result = report.about("verl", "torch", "transformers", "ray", "TransferQueue")
        result["parts"] = dict(sorted(parts.items(), key=lambda part: int(part[0])))
        report.publish("step_time", result, table(result))


if __name__ == "__main__":
    main()
