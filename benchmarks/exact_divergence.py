"""Cost of ``divergence=exact`` compared with verl's log-prob pass: peak memory and time, by verl's own forward steps.

Rows of two pictures under a small Qwen2.5-VL whose vocabulary is as large as the real one, where logits are most of the
memory. verl's FSDP engine takes the steps, without FSDP's wrapping. Each arm is a separate process with one thread; the
peak is what the pass adds to the process before it.

    python benchmarks/exact_divergence.py      # prints a table, writes benchmarks/results/exact_divergence.json
"""

import argparse
import contextlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import report

if TYPE_CHECKING:
    from tensordict import TensorDict
    from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

    from verl_mars.views import Trajectory

VOCABULARY = 151_936
ROWS, MICRO_ROWS = 8, 4
SIDE = 140  # pixels of a picture: 25 tokens
REPEATS = 5
ENVIRONMENT = {
    "VERL_PLATFORM": "cpu",
    "VERL_USE_EXTERNAL_MODULES": "verl_mars.cpu",
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",  # freed memory goes back at once: the peak is what was in use
}
ARMS = ("log_probs", "exact")
MEMORY_BOUND = 1.2


def make_engine() -> "FSDPEngineWithLMHead":
    """verl's engine around a model, as far as a forward step needs it."""
    import torch
    from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

    from verl_mars.toy import model as toy_model

    model = toy_model.build_model(0).eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model.lm_head = torch.nn.Linear(toy_model.HIDDEN, VOCABULARY, bias=False)

    class Engine(FSDPEngineWithLMHead):
        def __init__(self) -> None:
            self.module = model
            self.pad_to_length, self.use_ulysses_sp, self._autocast_dtype = False, False, torch.float32
            self.engine_config = SimpleNamespace(entropy_checkpointing=False)

        def eval_mode(self, **kwargs: object) -> contextlib.nullcontext:
            return contextlib.nullcontext()

        def get_data_parallel_group(self) -> None:
            return None

    return Engine()


def make_rows(engine: "FSDPEngineWithLMHead") -> "tuple[TensorDict, TensorDict]":
    """The rows of the blind view, and the training rows, as the worker gets them."""
    import torch
    from score_view import make_rows as trajectories_of
    from verl.utils import tensordict_utils

    from verl_mars.trainer.divergence_worker import OWN_PLACES, PIXELS, PLACES
    from verl_mars.trainer.rescore import places, row_fields
    from verl_mars.views import Blind, Trajectory

    config = engine.module.config
    rows: list[Trajectory] = []
    for seed in range(ROWS // MICRO_ROWS):
        generator = torch.Generator().manual_seed(seed)
        rows += trajectories_of(SIDE, config.text_config.vocab_size, config.image_token_id, generator)
    rows = [shortened(row, number) for number, row in enumerate(rows)]  # rows of one length would come stacked
    blind = Blind(frozenset({config.image_token_id}))
    shown = [blind.show(row) for row in rows]
    own = tensordict_utils.list_of_dict_to_tensordict([row_fields(row) for row in rows])
    tensordict_utils.assign_non_tensor(own, **{"temperature": 1.0, PIXELS: ""})
    view = tensordict_utils.list_of_dict_to_tensordict(
        [
            row_fields(seen, with_pixels=False) | {PLACES: places(seen), OWN_PLACES: places(row)}
            for seen, row in zip(shown, rows, strict=True)
        ]
    )
    return view, own


def shortened(row: "Trajectory", by: int) -> "Trajectory":
    """A trajectory without the last tokens of its response."""
    kept = len(row.response) - by
    return replace(
        row,
        response=row.response[:kept],
        response_mask=row.response_mask[:kept],
        position_ids=row.position_ids[:, : len(row.prompt) + kept],
    )


def run_arm(arm: str) -> dict[str, float]:
    """Peak megabytes above what was there before, and the median seconds of a pass."""
    import torch

    from verl_mars._compat import define_missing_torchvision_ops

    define_missing_torchvision_ops()
    torch.set_num_threads(1)
    from verl.utils import tensordict_utils

    from verl_mars.trainer.divergence_worker import compare

    engine = make_engine()
    view, own = make_rows(engine)
    config = SimpleNamespace(
        use_remove_padding=False,
        use_dynamic_bsz=False,
        infer_max_token_len_per_gpu=None,
        infer_micro_batch_size_per_gpu=MICRO_ROWS,
    )

    def log_probs() -> None:
        flags = {"use_remove_padding": False, "use_dynamic_bsz": False, "micro_batch_size_per_gpu": MICRO_ROWS}
        rows = own.select("input_ids", "position_ids", "multi_modal_inputs")
        tensordict_utils.maybe_fix_3d_position_ids(rows)
        tensordict_utils.assign_non_tensor(rows, temperature=1.0, **flags)
        with torch.no_grad():
            for micro in tensordict_utils.chunk_tensordict(rows, ROWS // MICRO_ROWS):
                engine.forward_step(micro, loss_function=None, forward_only=True)

    def exact() -> None:
        compare(engine, config, view.clone(), own.clone())

    run = {"log_probs": log_probs, "exact": exact}[arm]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"megabytes": peak / 1024, "seconds": statistics.median(times)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arm", choices=ARMS, help="run one arm in this process and print its figures")
    arguments = parser.parse_args()
    if arguments.arm:
        print(json.dumps(run_arm(arguments.arm)))
        return
    results: dict[str, dict[str, float]] = {}
    for arm in ARMS:
        command = [sys.executable, "-W", "ignore", __file__, "--arm", arm]
        out = subprocess.run(command, capture_output=True, text=True, env=os.environ | ENVIRONMENT)
        if out.returncode:
            sys.exit(out.stderr)
        results[arm] = json.loads(out.stdout.splitlines()[-1])
    memory, seconds = (results["exact"][name] / results["log_probs"][name] for name in ("megabytes", "seconds"))
    print("pass                  peak MB   seconds")
    for arm, figures in results.items():
        print(f"{arm:20s} {figures['megabytes']:8.0f} {figures['seconds']:9.3f}")
    print(f"exact / log_probs    {memory:8.2f} {seconds:9.2f}   (memory at most {MEMORY_BOUND})")
    machine = {"python": platform.python_version(), "machine": platform.machine(), "processor": report.processor()}
    text = {
        "date": date.today().isoformat(),
        "environment": machine,
        "rows": ROWS,
        "micro_batch": MICRO_ROWS,
        "vocabulary": VOCABULARY,
        "results": results,
        "memory_ratio": memory,
        "time_ratio": seconds,
    }
    (Path(__file__).parent / "results" / "exact_divergence.json").write_text(json.dumps(text, indent=1) + "\n")
    if memory > MEMORY_BOUND:
        sys.exit(f"peak memory is {memory:.2f} x that of verl's log-prob pass, more than {MEMORY_BOUND}")


if __name__ == "__main__":
    main()
