"""Step times of the methods on a GPU, with verl's vLLM server: ``python benchmarks/gpu_steps.py``.

Qwen2.5-VL-3B's width with random weights and fewer layers, FSDP2 in bf16 on one device, nothing offloaded, rows of two
pictures and two sources. The steps of one run are in turn

- ``grpo``: the trainer mode ``mars_sync`` with ``algorithm.adv_estimator=grpo``, no anchors;
- ``mars``: the mono sessions go to the engine in the same request as the fused ones;
- ``two_phase``: the authors' way; all mono sessions of the batch, then all fused ones (``step_time_two_phase.py``);
- ``pgpo``, ``pgpo_exact``: PGPO over GRPO with ``divergence=sampled`` and ``exact``.

A block has each arm once, on the same prompts, in an order that changes from block to block. The first block warms up
and does not count. Ratios are those of two steps of one block.

``--rehearse`` runs the arms without a GPU: the toy model, the transformers engine, and nothing is published.
"""

import argparse
import importlib.util
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import report
import step_time
from step_time_arms import arm_of, refuse_other_arm

from verl_mars.fields import FieldDict, Fields
from verl_mars.toy.runs import run_main

ARMS = ("mars", "grpo", "two_phase", "pgpo", "pgpo_exact")
HERE = Path(__file__).parent
TESTS = HERE.parent / "tests"
LAYERS, VISION_BLOCKS, PARAMETERS = 8, 6, 1_084_210_000
PROMPTS, ROLLOUTS, SOURCES = 8, 4, 2
SIDE, ANSWER, BUDGET = 448, 256, 8192
PROMPT = 2 * (SIDE // 28) ** 2 + 128
CACHE_BYTES = 8 * 2**30
ENDS = 300
"""Tokens that end an answer: random weights almost never sample one alone, and lengths should vary."""
WARM_UP = len(ARMS)
TIMEOUT_SECONDS = 3600.0

TIMERS = {
    "step": ("step",),
    "generation": ("submit", "gen"),
    "log-probs": ("old_log_prob",),
    "view log-probs": ("score_view",),
    "update": ("update_actor",),
    "weights": ("update_weights",),
}
"""Columns of the table: sums of verl's timers."""
KEPT = """timing_s/step timing_s/submit timing_s/gen timing_s/anchors timing_s/old_log_prob timing_s/score_view
    timing_s/adv timing_s/update_actor timing_s/update_weights response_length/mean prompt_length/mean
    mars/anchor_tokens mars/anchor_token_share mars/missing_anchors pgpo/dependency_mean perf/score_view_share
    perf/throughput actor/grad_norm actor/perf/max_memory_allocated_gb actor/perf/max_memory_reserved_gb
    training/rollout_actor_probs_pearson_corr rollout_corr/log_ppl_abs_diff""".split()
"""Metrics of a step that the results keep."""


def save_model(folder: Path) -> None:
    """The GPU tests' model with more layers, for pictures of :data:`SIDE`, and answers of varying length."""
    spec = importlib.util.spec_from_file_location("true_shapes", TESTS / "gpu" / "true_shapes.py")
    assert spec is not None and spec.loader is not None
    true_shapes = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(true_shapes)
    true_shapes.save(folder, LAYERS, VISION_BLOCKS)
    for file in folder.glob("*processor*_config.json"):
        settings = json.loads(file.read_text())
        for part in (settings, settings.get("image_processor"), settings.get("video_processor")):
            if isinstance(part, dict) and "size" in part:
                part["size"] = {"shortest_edge": 56 * 56, "longest_edge": SIDE * SIDE}
                part.pop("min_pixels", None)
                part.pop("max_pixels", None)
        file.write_text(json.dumps(settings, indent=1))
    file = folder / "generation_config.json"
    settings = json.loads(file.read_text())
    ends = settings["eos_token_id"]
    more = range(1000, 151_000, 150_000 // ENDS)
    settings["eos_token_id"] = (ends if isinstance(ends, list) else [ends]) + list(more)[:ENDS]
    file.write_text(json.dumps(settings, indent=1))


def overrides(folder: Path, poll_seconds: float) -> list[str]:
    """Settings of the run on a GPU."""
    save_model(folder / "model")
    return [
        *("hardware=one_gpu", "dataset=toy", f"actor_rollout_ref.model.path={folder / 'model'}"),
        *(f"data.max_prompt_length={PROMPT}", f"data.max_response_length={ANSWER}"),
        f"actor_rollout_ref.rollout.max_model_len={PROMPT + ANSWER}",
        "actor_rollout_ref.rollout.max_num_seqs=192",
        # A cache of fixed size: what other programs allocate while vLLM starts does not change it.
        "actor_rollout_ref.rollout.gpu_memory_utilization=0.1",
        f"+actor_rollout_ref.rollout.engine_kwargs.vllm.kv_cache_memory_bytes={CACHE_BYTES}",
        *("actor_rollout_ref.actor.use_kl_loss=false", f"actor_rollout_ref.actor.ppo_max_token_len_per_gpu={BUDGET}"),
        "actor_rollout_ref.actor.fsdp_config.offload_policy=false",
        "reward.num_workers=2",
        f"+trainer.v1.sampler.sampler_kwargs.poll_interval_seconds={poll_seconds}",
    ]


def rehearsal() -> list[str]:
    """Settings of a run on a CPU."""
    from verl_mars.toy.prepare import prepare

    return [
        f"actor_rollout_ref.model.path={prepare().model}",
        *("data.max_prompt_length=84", "actor_rollout_ref.rollout.max_model_len=96"),
    ]


def train(blocks: int, poll_seconds: float, folder: Path, rehearse: bool) -> list[FieldDict]:
    """Arm and metrics of each step of a run of so many blocks. A run that fails leaves the steps before it."""
    side = None if rehearse else SIDE
    file = step_time.write_data(SOURCES, blocks, folder, len(ARMS), PROMPTS, side)
    settings = [
        *(rehearsal() if rehearse else overrides(folder, poll_seconds)),
        *(f"data.train_files={file}", f"data.val_files={file}", "data.shuffle=false"),
        *(f"data.train_batch_size={PROMPTS}", f"actor_rollout_ref.rollout.n={ROLLOUTS}"),
        f"actor_rollout_ref.actor.ppo_mini_batch_size={PROMPTS}",
        "reward.custom_reward_function.path=pkg://letters_reward",
        "reward.custom_reward_function.name=compute_score",
        *(f"trainer.total_training_steps={blocks * len(ARMS)}", "trainer.test_freq=-1"),
        "trainer.val_before_train=false",
    ]
    recipe = "toy_mars_grpo" if rehearse else "mars_grpo"
    paths = os.pathsep.join(filter(None, [str(TESTS / "integration"), os.environ.get("PYTHONPATH")]))
    env = {"PYTHONPATH": paths, "STEP_TIME_ARMS": ",".join(ARMS)}
    run = run_main(folder, recipe, settings, ["step_time_plugin"], env, path=HERE, seconds=TIMEOUT_SECONDS)
    if run.returncode:
        print("verl failed:\n" + "\n".join(run.log.splitlines()[-60:]), file=sys.stderr)
    for step, data in run.metrics.items():
        refuse_other_arm(step, arm_of(step, ARMS), data)
    return [
        {"step": step, "arm": arm_of(step, ARMS)} | {key: round(data[key], 6) for key in KEPT if key in data}
        for step, data in sorted(run.metrics.items())
    ]


def seconds(step: Fields, column: str) -> float:
    """Seconds of a column of the table; 0 where the arm has no such part."""
    return sum(step.get(f"timing_s/{timer}", 0.0) for timer in TIMERS[column])


def summary(steps: Sequence[Fields]) -> FieldDict:
    """Medians by arm over the steps that count; ratios to ``grpo`` within each block that is whole."""
    counted = list(steps[WARM_UP:])
    arms: FieldDict = {}
    for arm in ARMS:
        own = [step for step in counted if step["arm"] == arm]
        if own:
            times = {column: [round(seconds(step, column), 2) for step in own] for column in TIMERS}
            share = [step["perf/score_view_share"] for step in own if "perf/score_view_share" in step]
            arms[arm] = times | {"share of view log-probs": share}
    ratios: dict[str, list[float]] = {arm: [] for arm in ARMS if arm != "grpo"}
    for first in range(0, len(counted) - len(ARMS) + 1, len(ARMS)):
        block = {step["arm"]: step["timing_s/step"] for step in counted[first : first + len(ARMS)]}
        for arm, found in ratios.items():
            found.append(round(block[arm] / block["grpo"], 3))
    return {"arms": arms, "step_over_grpo": ratios}


def table(result: Fields) -> str:
    """All figures in Markdown."""
    found = summary(result["steps"])
    rows = []
    for arm, columns in found["arms"].items():
        share = columns["share of view log-probs"]
        ratios = ", ".join(f"{ratio:.2f}" for ratio in found["step_over_grpo"].get(arm, []))
        cells = [spread(columns[column]) for column in TIMERS]
        rows.append([f"`{arm}`", str(len(columns["step"])), *cells, percent(share), ratios or "1"])
    head = ["arm", "steps", *(f"{column}, s" for column in TIMERS), "view log-probs, %", "step / `grpo`, by block"]
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    where = f"Measured on {result['date']}: one {result['device']}, {result['cores']} cores; {versions}."
    return f"{where} {result['settings']}\n\n{report.markdown(head, rows)}"


def spread(values: Sequence[float]) -> str:
    """Median, least and largest of a few values."""
    if not any(values):
        return "-"
    return f"{statistics.median(values):.1f} ({min(values):.1f}-{max(values):.1f})"


def percent(shares: Sequence[float]) -> str:
    return f"{100 * statistics.median(shares):.0f}" if shares else "-"


def settings_in_words(poll_seconds: float) -> str:
    """What was run, for those who compare."""
    return (
        f"Qwen2.5-VL-3B's width with random weights, {LAYERS} of 36 layers, {VISION_BLOCKS} of 32 vision blocks "
        f"({PARAMETERS / 1e9:.2f} B parameters); {PROMPTS} prompts x {ROLLOUTS} rollouts, two pictures of "
        f"{SIDE} x {SIDE} a prompt, answers of up to {ANSWER} tokens; FSDP2 in bf16, not packed (no flash-attn); "
        f"the replay buffer is polled every {poll_seconds:g} s."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=10, help="blocks of five steps that count")
    parser.add_argument(
        "--poll-seconds", type=float, default=0.1, help="verl's own is 2 s, which rounds times up to it"
    )
    parser.add_argument("--keep", type=Path, help="where verl's log and metrics stay")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, with the toy; publishes nothing")
    options = parser.parse_args()
    import torch

    if not options.rehearse and not torch.cuda.is_available():
        raise SystemExit("needs a CUDA device, and there is none; --rehearse runs the arms on a CPU")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        steps = train(options.blocks + 1, options.poll_seconds, folder.resolve(), options.rehearse)
    if options.rehearse:
        print(json.dumps(summary(steps), indent=1))
        return
    about = report.about("verl", "torch", "vllm", "transformers", "ray", "TransferQueue")
    result = {
        "date": about["date"],
        "device": torch.cuda.get_device_name(),
        "cores": about["machine"]["cores"],
        "versions": about["versions"],
        "settings": settings_in_words(options.poll_seconds),
        "steps": steps,
    }
    report.publish("gpu_steps", result, table(result))


if __name__ == "__main__":
    main()
