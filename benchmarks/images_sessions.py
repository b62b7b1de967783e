"""What the sessions of a prompt spend on images, without a model: ``python benchmarks/images_sessions.py``.

The agent-loop worker of a ``mars_*`` run, with verl's own single-turn loop and the toy's Qwen2.5-VL processor, in one
process. An engine of three lines answers at once, and TransferQueue is a counter. So what is left of a session is what
its images cost, and the rest of the agent loop. For each size of the pictures (two; six of six sources where K = 6) and
each n: CPU seconds of the process for a prompt, and bytes that it writes, with images handled once (``once``) and
verl's way (``copies``); medians over prompts. The rest of the agent loop, measured with pictures of 28 x 28 pixels
handled once (``rest``), is taken off for the seconds of images alone.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import report
import transfer_queue as tq
from PIL import Image
from tensordict import TensorDict
from verl.trainer.ppo.v1 import agent_loop_tq
from verl.utils.dataset.rl_dataset import RLHFDataset
from verl.utils.tokenizer import hf_processor, hf_tokenizer
from verl.workers.rollout.replica import TokenOutput

from verl_mars.fields import FieldDict
from verl_mars.methods.table import method_of
from verl_mars.preflight.doctor import compose_recipe
from verl_mars.rollout.image_sharing import SharesImages

SIZES = {"448 x 448": ((448, 448), (0, 2, 6)), "1280 x 1024": ((1280, 1024), (0, 2))}
"""Width and height, and the numbers of anchors K."""
ROLLOUTS = (1, 4, 8, 14)
ARMS = ("copies", "once")


class Engine:
    """Answers every request at once."""

    async def generate(self, prompt_ids: list[int], **_: object) -> TokenOutput:
        """Two tokens."""
        return TokenOutput(token_ids=[30, 31], log_probs=[0.0, 0.0], num_preempted=0)


class Reward:
    """The handle of a reward worker that scores 1."""

    class _Call:
        @staticmethod
        async def remote(data: object) -> FieldDict:
            """The score of one session."""
            return {"reward_score": 1.0, "reward_extra_info": {}}

    compute_score = _Call()


class Written:
    """Counts the bytes of tensors that are written to TransferQueue."""

    def __init__(self) -> None:
        self.bytes = 0

    async def put(self, keys: list[str], fields: TensorDict, **_: object) -> None:
        """As ``async_kv_batch_put``."""
        for name in fields.keys():
            for value in [fields[name]] if hasattr(fields[name], "nbytes") else fields[name]:
                self._add(getattr(value, "data", value))

    def _add(self, value: Any) -> None:
        if isinstance(value, dict):
            for inner in value.values():
                self._add(inner)
        elif hasattr(value, "untyped_storage"):
            self.bytes += value.numel() * value.element_size()

    @staticmethod
    async def tag(**_: object) -> None:
        """As ``async_kv_put``."""


def worker(arm: str, n: int, k: int, model: Path) -> SharesImages:
    """The worker of a run, without Ray."""
    estimator = "mars" if k else "grpo"
    overrides = [
        f"algorithm.adv_estimator={estimator}",
        f"actor_rollout_ref.rollout.n={n}",
        f"actor_rollout_ref.model.path={model}",
    ]
    overrides += [
        "data.max_prompt_length=32768",
        "actor_rollout_ref.rollout.prompt_length=32768",
        "trainer.total_training_steps=1",
    ]
    config = compose_recipe("toy_mars_grpo", [*overrides, f"+data.images_once.enable={str(arm == 'once').lower()}"])
    made = SharesImages.__new__(SharesImages)
    made.config, made.method, made.running_prompts, made.seed_key = config, method_of(config.algorithm), {}, None
    made.rollout_config = config.actor_rollout_ref.rollout
    made.tokenizer, made.processor, made.dataset_cls = hf_tokenizer(str(model)), hf_processor(str(model)), RLHFDataset
    made.llm_client, made.hf_model_type, made.tools, made.mm_processor_kwargs = Engine(), "qwen2_5_vl", [], {}
    made.reward_loop_worker_handles, made.distillation_enabled = [Reward()], False
    made.ask_reward_workers = lambda: None
    made.share_images()
    return made


def prompt(files: list[str], number: int) -> FieldDict:
    """A prompt whose every picture is a source."""
    content = [
        *({"type": "image", "image": file} for file in files),
        {"type": "text", "text": "where is the hot object"},
    ]
    sources = [{"name": f"s{i}", "images": [i], "prompt": None, "ground_truth": None} for i in range(len(files))]
    return {
        **{"uid": f"u{number}", "index": number, "raw_prompt": [{"role": "user", "content": content}]},
        **{"sources": sources, "reward_model": {"ground_truth": "{}"}, "global_steps": 1, "data_source": "toy"},
        "agent_name": "single_turn_agent",
    }


def pictures(size: tuple[int, int], count: int, folder: Path) -> list[str]:
    """Files of pictures as a camera makes them: smooth, with noise."""
    width, height = size
    files = []
    for number in range(count):
        random = np.random.default_rng(number)
        small = Image.fromarray(random.integers(0, 255, (max(1, height // 16), max(1, width // 16), 3), dtype=np.uint8))
        smooth = np.asarray(small.resize(size, Image.Resampling.BICUBIC), dtype=np.int16)
        pixels = (smooth + random.integers(-8, 8, smooth.shape)).clip(0, 255).astype(np.uint8)
        files.append(str(folder / f"{width}_{number}.jpg"))
        Image.fromarray(pixels).save(files[-1], quality=92)
    return files


def measure(arm: str, n: int, k: int, files: list[str], model: Path, prompts: int) -> dict[str, float]:
    """CPU seconds of a prompt, bytes that it writes; the first prompt is not counted."""
    written = Written()
    tq.async_kv_batch_put, tq.async_kv_put = written.put, written.tag
    agent_loop_tq.tq.async_kv_batch_put, agent_loop_tq.tq.async_kv_put = written.put, written.tag
    made = worker(arm, n, k, model)
    seconds, sizes = [], []
    for number in range(prompts + 1):
        start, before = time.process_time(), written.bytes
        trajectory = {"step": 1, "validate": False, "sample_index": number, "rollout_n": 0}
        asyncio.run(made._run_prompt(prompt(files, number), {"max_tokens": 8}, trajectory))
        seconds.append(time.process_time() - start)
        sizes.append(written.bytes - before)
    return {"cpu_seconds": statistics.median(seconds[1:]), "bytes": statistics.median(sizes[1:])}


def table(result: FieldDict) -> str:
    """The figures as Markdown."""
    rows = []
    for case in result["cases"]:
        copies, once = case["copies"], case["once"]
        images = [arm["cpu_seconds"] - case["rest"]["cpu_seconds"] for arm in (copies, once)]
        each = ([arm["cpu_seconds"] for arm in (copies, once)], images)
        cells = [[f"{seconds:.2f}" for seconds in pair] + [f"{pair[1] / pair[0]:.2f}"] for pair in each]
        written = [f"{arm['bytes'] / 1e6:,.1f}" for arm in (copies, once)] + [f"{once['bytes'] / copies['bytes']:.2f}"]
        rows.append([case["size"], str(case["k"]), str(case["n"]), *cells[0], *cells[1], *written])
    groups = ("CPU s", "of images", "MB written")
    head = ["pictures", "K", "n", *(f"{group}, {arm}" for group in groups for arm in ("`copies`", "`once`", "ratio"))]
    return f"{report.where(result)}\n\n{report.markdown(head, rows)}"


def main() -> None:
    """Measure every case, both arms one after the other, and publish."""
    from images import model_for

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=3)
    options = parser.parse_args()
    cases = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = model_for(1280, folder / "model")
        for size, (pixels, anchors) in SIZES.items():
            for k in anchors:
                files = pictures(pixels, 6 if k == 6 else 2, folder)
                for n in ROLLOUTS:
                    arms = {arm: measure(arm, n, k, files, model, options.prompts) for arm in ARMS}
                    tiny = pictures((28, 28), len(files), folder)
                    arms["rest"] = measure("once", n, k, tiny, model, options.prompts)
                    cases.append({"size": f"{len(files)} x {size}", "k": k, "n": n, **arms})
                    print(cases[-1], flush=True)
    result = {**report.about("verl", "torch", "transformers", "qwen-vl-utils"), **vars(options), "cases": cases}
    report.publish("images_sessions", result, table(result))


if __name__ == "__main__":
    main()
