"""How long the rewards take: ``python benchmarks/reward.py`` prints a table and writes benchmarks/results/reward.json.

Usual outputs: a think/answer response of 200 to 4,000 characters. Giant outputs: 100 KB, each made to be slow for some
parser (mutants.py). Times are processor times of single calls in one thread, the best of three passes,
because the machine may be busy. math-verify runs in a separate process and is timed separately, by the clock.
"""

import argparse
import importlib.util
import json
import platform
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import mutants
from rich.console import Console
from rich.table import Table

from verl_mars.fields import FieldDict
from verl_mars.reward import compute_score
from verl_mars.tasks import TASKS, math_process

HERE = Path(__file__).resolve().parent


WORDS = (
    "the person on the left stands near a car while infrared shows one warm shape behind it so I compare both".split()
)
SIZE = [1280, 1024]


def thought(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(30, 700)))


def usual(task: str, number: int, seed: int) -> list[tuple[str, str, FieldDict]]:
    """(response, ground truth, extra_info) as a trained model gives them: about two in three right."""
    rng = random.Random(seed)
    rows = []
    for index in range(number):
        if task == "grounding":
            boxes = []
            for _ in range(rng.randint(1, 11)):
                x, y = rng.randint(0, 1100), rng.randint(0, 800)
                boxes.append([x, y, x + rng.randint(20, 150), y + rng.randint(40, 200)])
            truth: FieldDict = {"boxes": boxes, "labels": ["person"] * len(boxes), "frame": 0, "size": SIZE}
            said = [[value * 1.01 + rng.randint(-6, 6) for value in box] for box in boxes if rng.random() < 0.9]
            items = [{"bbox_2d": [round(v) for v in box], "label": "person"} for box in said]
            answer = f"```json\n{json.dumps(items)}\n```"
        elif task == "vqa":
            truth = {"answers": [rng.choice(["yes", "no", "top left", "three", "red"])]}
            answer = rng.choice([truth["answers"][0], "Yes, there is one.", "The answer is red."])
        elif task == "mcq":
            truth = {"letter": "B", "text": "Travel", "choices": ["not the same", "Travel", "Religion", "Medicine"]}
            answer = rng.choice(["B", "B. Travel", "Religion", "The answer is (C)."])
        elif task == "count":
            truth = {"value": rng.randint(0, 30)}
            answer = rng.choice([str(truth["value"]), "There are twenty-one of them.", "none"])
        elif task == "ocr":
            truth = {"answers": [rng.choice(["Exit 42", "No parking", "Main Street 7"])]}
            answer = rng.choice([truth["answers"][0], "Exit 43", "Main St 7"])
        else:
            truth = {"answer": "1/2"}
            answer = rng.choice(["0.5", "\\frac{1}{2}", "1/2", "\\boxed{1/2}"])
        text = f"<think>{thought(rng)}</think><answer>{answer}</answer>"
        info = {"task": task, "index": index, "coordinates": "qwen2_5_vl", "image_sizes": [SIZE, SIZE]}
        rows.append((text, json.dumps(truth), info))
    return rows


def milliseconds(call: Callable[[], object], clock: Callable[[], float] = time.thread_time) -> float:
    start = clock()
    call()
    return 1000.0 * (clock() - start)


def measure_usual(task: str, number: int, repeats: int) -> dict[str, float]:
    rows = usual(task, number, seed=0)
    for row in rows[:50]:
        compute_score("bench", *row)
    medians, tails, worst = [], [], []
    for _ in range(repeats):
        times = sorted(milliseconds(lambda row=row: compute_score("bench", *row)) for row in rows)
        medians.append(statistics.median(times))
        tails.append(times[int(0.99 * len(times))])
        worst.append(times[-1])
    return {"median_ms": min(medians), "p99_ms": min(tails), "max_ms": min(worst)}


def measure_giants(task: str) -> FieldDict:
    truth = json.dumps({**mutants.TRUTHS, "math": {"answer": "1"}, "ocr": {"answers": ["Exit 42"]}}[task])
    slowest, name_of_slowest = 0.0, ""
    for name, text in mutants.giants(100_000).items():
        call = lambda text=text: compute_score("bench", text, truth, {"task": task})  # noqa: E731
        took = min(milliseconds(call) for _ in range(3))
        if took > slowest:
            slowest, name_of_slowest = took, name
    return {"giant_max_ms": slowest, "giant": name_of_slowest}


def measure_iou(repeats: int) -> dict[str, float] | None:
    """A matrix of 250 x 11 IoUs: ours, and pair by pair with torch tensors as the authors' reward does it."""
    if importlib.util.find_spec("torch") is None:
        return None
    import numpy as np
    import torch

    from verl_mars.tasks.grounding import iou_matrix

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 1000, (261, 2)).astype(float)
    boxes = np.concatenate([corners, corners + rng.integers(20, 200, (261, 2))], axis=1)
    said, true = boxes[:250], boxes[250:]

    def area(box: "torch.Tensor") -> "torch.Tensor":
        return (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])

    def pair(one: list[float], other: list[float]) -> float:
        a, b = torch.tensor([one]), torch.tensor([other])
        sides = (torch.min(a[:, None, 2:], b[:, 2:]) - torch.max(a[:, None, :2], b[:, :2])).clamp(min=0)
        shared = sides[:, :, 0] * sides[:, :, 1]
        return (shared / (area(a)[:, None] + area(b) - shared)).item()

    def pairwise() -> list[list[float]]:
        return [[pair(one, other) for other in true.tolist()] for one in said.tolist()]

    assert np.allclose(iou_matrix(said, true), pairwise(), atol=1e-6)
    ours = min(milliseconds(lambda: iou_matrix(said, true)) for _ in range(5 * repeats))
    theirs = min(milliseconds(pairwise) for _ in range(repeats))
    return {"ours_ms": ours, "pairwise_torch_ms": theirs, "ratio": theirs / ours}


def measure_math_verify(repeats: int) -> dict[str, float] | None:
    if importlib.util.find_spec("math_verify") is None:
        return None
    row = ("<think>a</think><answer>(x+1)^2</answer>", '{"answer": "x^2+2x+1"}', {"task": "math"})
    start = milliseconds(lambda: compute_score("bench", *row, math_timeout_seconds=30), time.perf_counter)
    asked = min(
        milliseconds(lambda: compute_score("bench", *row, math_timeout_seconds=30), time.perf_counter)
        for _ in range(10 * repeats)
    )
    math_process.stop()
    return {"first_ms": start, "expression_ms": asked}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "reward.json")
    arguments = parser.parse_args()
    tasks = {task: measure_usual(task, arguments.rows, arguments.repeats) | measure_giants(task) for task in TASKS}
    results = {
        "machine": {"python": platform.python_version(), "processor": platform.machine()},
        "rows": arguments.rows,
        "tasks": tasks,
        "iou_250x11": measure_iou(arguments.repeats),
        "math_verify": measure_math_verify(arguments.repeats),
    }
    table = Table("task", "median", "99%", "slowest", "100 KB", "slowest of them")
    for task, row in tasks.items():
        figures = [f"{row[key]:.3f} ms" for key in ("median_ms", "p99_ms", "max_ms", "giant_max_ms")]
        table.add_row(task, *figures, row["giant"])
    console = Console()
    console.print(table)
    if results["iou_250x11"] is not None:
        console.print(
            "250 x 11 IoUs: {ours_ms:.2f} ms, pair by pair {pairwise_torch_ms:.1f} ms".format(**results["iou_250x11"])
        )
    if results["math_verify"] is not None:
        console.print(
            "math-verify: first {first_ms:.0f} ms, then {expression_ms:.1f} ms".format(**results["math_verify"])
        )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    console.print(f"written: {arguments.out}")


if __name__ == "__main__":
    main()
