"""The cost of images, handled once a prompt and verl's way: ``python benchmarks/images.py``.

Real verl on a CPU: the recipe ``toy_mars_grpo`` and its warm-started model, n = 8 rollouts of 8 prompts a step, K = 2,
two pictures of 448 x 448 pixels. Two runs one after the other, on the same prompts and with the same seed:

- ``copies``: ``data.images_once.enable=false``, verl's way. Each session loads and processes its images, and each row
  holds a copy of the patches;
- ``once``: the default.

For each, over all steps but the first: bytes that are put into TransferQueue and fetched from it, counted in its own
messages; CPU seconds of the agent-loop worker; seconds of a step (medians). Peak memory is that of the whole run.
``same`` says whether all metrics of both runs that are not of time or memory are equal bit for bit.

``--steps``, ``--prompts``, ``--side``: other sizes. About 10 minutes on 2 cores.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import report
from images_plugin import FOLDER
from step_time import write_data

from verl_mars.fields import FieldDict
from verl_mars.toy.runs import FinishedRun, run_main

ROLLOUTS, K = 8, 2
ARMS = {"copies": ["+data.images_once.enable=false"], "once": []}
PROCESSES = {"agent-loop worker": "SharesImages", "training worker": "WorkerDict"}
"""Names of processes that load the plugin, and write down their own memory."""
STORAGE = "storage of TransferQueue"
STORAGE_TITLE = "ray::SimpleStorageUnit"
"""It imports nothing of verl, so its memory is read from outside."""
CLOCK = ("timing_s/", "timing_per_token_ms/", "perf/", "actor/perf/")
"""Metrics of time and memory."""


def model_for(side: int, folder: Path) -> Path:
    """The warm-started toy model with a processor that leaves pictures of this size as they are."""
    from verl_mars.toy.prepare import prepare

    shutil.copytree(prepare().model, folder)
    file = folder / "processor_config.json"
    settings = json.loads(file.read_text())
    for part in ("image_processor", "video_processor"):
        settings[part]["size"] = {"shortest_edge": 3136, "longest_edge": side * side}
    file.write_text(json.dumps(settings))
    return folder


def train(arm: str, steps: int, prompts: int, side: int, data: Path, model: Path, folder: Path) -> FinishedRun:
    """One run; what its processes noted lies in the folder."""
    folder.mkdir()
    tokens = K * (side // 28) ** 2
    overrides = [
        *(f"data.train_files={data}", f"data.val_files={data}", "data.shuffle=false"),
        *(f"data.train_batch_size={prompts}", f"actor_rollout_ref.actor.ppo_mini_batch_size={prompts}"),
        *(f"data.max_prompt_length={tokens + 64}", f"actor_rollout_ref.rollout.max_model_len={tokens + 80}"),
        *(f"actor_rollout_ref.model.path={model}", f"actor_rollout_ref.rollout.n={ROLLOUTS}"),
        *("actor_rollout_ref.rollout.agent.num_workers=1", "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=8192"),
        *(f"trainer.total_training_steps={steps}", "trainer.val_before_train=false", "trainer.test_freq=-1"),
        *ARMS[arm],
    ]
    here, environment = Path(__file__).parent, {FOLDER: str(folder)}
    run = run_main(folder, "toy_mars_grpo", overrides, ["images_plugin"], environment, here, 1800)
    if run.returncode:
        raise RuntimeError(f"the run `{arm}` ended with {run.returncode}:\n{run.log[-3000:]}")
    return run


@contextmanager
def storage_memory() -> Iterator[dict[int, int]]:
    """Peak resident bytes of each storage process of the runs within, by process number; read twice a second."""
    peaks: dict[int, int] = {}
    stopped = threading.Event()

    def watch() -> None:
        while not stopped.wait(0.5):
            for process in psutil.process_iter(["cmdline"]):
                if STORAGE_TITLE in " ".join(process.info["cmdline"] or ()):
                    with suppress(psutil.NoSuchProcess):
                        peaks[process.pid] = max(peaks.get(process.pid, 0), process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peaks
    finally:
        stopped.set()
        watcher.join()


def costs(run: FinishedRun, folder: Path, storage: int) -> FieldDict:
    """Bytes and CPU seconds a step without the first, peak memory by process, median seconds of a step.

    Args:
        run: the run.
        folder: where its processes left their notes.
        storage: peak bytes of its storage processes together.
    """
    notes = [json.loads(line) for file in folder.glob("*.jsonl") if file.stem.isdecimal() for line in file.open()]
    steps = [tuple(map(float, line.split())) for line in (folder / "steps.txt").read_text().splitlines()][1:]
    begin, end = steps[0][0], steps[-1][1]
    inside = [note for note in notes if begin <= note[0] <= end]
    worker = [note[4] for note in inside if note[1] == PROCESSES["agent-loop worker"]]
    later = sorted(run.metrics)[1:]
    return {
        "put_bytes": sum(note[3] for note in inside if note[2] == "put") / len(steps),
        "fetched_bytes": sum(note[3] for note in inside if note[2] == "get") / len(steps),
        "worker_cpu_seconds": (max(worker) - min(worker)) / len(steps),
        "peak_bytes": {
            name: max((note[5] for note in notes if note[1] == process), default=0)
            for name, process in PROCESSES.items()
        }
        | {STORAGE: storage},
        "step_seconds": statistics.median(run.metrics[step]["timing_s/step"] for step in later),
        "metrics": {key: run.metrics[later[-1]].get(f"perf/{key}") for key in ("image_seconds", "image_bytes_saved")},
    }


def same(one: FinishedRun, other: FinishedRun) -> tuple[int, int]:
    """Number of metrics of both runs, and of those that are not equal."""

    def numbers(run: FinishedRun) -> dict[tuple[int, str], str]:
        return {
            (step, name): repr(value)
            for step, values in run.metrics.items()
            for name, value in values.items()
            if not name.startswith(CLOCK)
        }

    first, second = numbers(one), numbers(other)
    keys = first.keys() | second.keys()
    return len(keys), sum(first.get(key) != second.get(key) for key in keys)


def table(result: FieldDict) -> str:
    """The figures as Markdown."""
    arms = result["arms"]
    quantities = {
        "put into TransferQueue, MB": [arms[arm]["put_bytes"] / 1e6 for arm in ARMS],
        "fetched from it, MB": [arms[arm]["fetched_bytes"] / 1e6 for arm in ARMS],
        "CPU of the agent-loop worker, s": [arms[arm]["worker_cpu_seconds"] for arm in ARMS],
        "step, s": [arms[arm]["step_seconds"] for arm in ARMS],
    } | {
        f"peak memory of the {name}, MB": [arms[arm]["peak_bytes"][name] / 1e6 for arm in ARMS]
        for name in (*PROCESSES, STORAGE)
    }
    rows = [
        [name, f"{copies:,.1f}", f"{once:,.1f}", f"{once / copies:.2f}"] for name, (copies, once) in quantities.items()
    ]
    count, different = result["same"]
    return "\n".join(
        [
            f"{report.where(result)} {result['prompts']} prompts x n = {ROLLOUTS}, K = {K}, two pictures of "
            f"{result['side']} x {result['side']}, {result['steps']} steps.",
            "",
            report.markdown(["a step", "`copies`", "`once`", "`once` / `copies`"], rows),
            "",
            f"Of {count} metrics of both runs that are not of time or memory, {different} differ.",
        ]
    )


def main() -> None:
    """Run both arms and publish."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--side", type=int, default=448)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "data").mkdir()
        data = write_data(K, options.steps, folder / "data", 1, options.prompts, options.side)
        model = model_for(options.side, folder / "model")
        size = (options.steps, options.prompts, options.side)
        runs, arms = {}, {}
        for arm in ARMS:
            with storage_memory() as peaks:
                runs[arm] = train(arm, *size, data, model, folder / arm)
            arms[arm] = costs(runs[arm], folder / arm, sum(peaks.values()))
    result = {
        **report.about("verl", "torch", "transformers", "ray", "TransferQueue"),
        **vars(options),
        "arms": arms,
        "same": same(*runs.values()),
    }
    report.publish("images", result, table(result))


if __name__ == "__main__":
    main()
