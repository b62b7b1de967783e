"""Cost of the estimator: ``python benchmarks/estimator.py`` prints a table and writes results/estimator.json.

Time of `mars` with verl's signature, rewards (B, T) in and advantages (B, T) out, against a readable loop over groups
and rows, which is how the authors' code computes it (with each prompt's own anchors; theirs are taken by position). The
two are compared before they are timed.
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import report
import torch

from verl_mars.fields import FieldDict
from verl_mars.methods.estimator import estimator

GROUP, ANCHORS = 14, 2
SIZES = ((1_792, 2_048), (100_000, 64))
"""Rows and tokens: a step of the authors' GRPO script, and 56 of them with answers short enough for memory."""

Batch = tuple[torch.Tensor, torch.Tensor, np.ndarray, torch.Tensor]


def by_groups(rewards: torch.Tensor, mask: torch.Tensor, uids: np.ndarray, anchors: torch.Tensor) -> torch.Tensor:
    """A loop over rows and one over groups, as verl's `grpo` and the authors' code have them."""
    scores = rewards.sum(-1)
    members: dict[str, list[torch.Tensor]] = defaultdict(list)
    own: dict[str, torch.Tensor] = {}
    for row, uid in enumerate(uids):
        members[uid].append(scores[row])
        own[uid] = anchors[row]
    mean, std = {}, {}
    for uid, values in members.items():
        union = torch.cat([torch.stack(values), own[uid]])
        mean[uid], std[uid] = union.mean(), union.std()
    for row, uid in enumerate(uids):
        scores[row] = (scores[row] - mean[uid]) / (std[uid] + 1e-6)
    return scores[:, None] * mask


def ours(rewards: torch.Tensor, mask: torch.Tensor, uids: np.ndarray, anchors: torch.Tensor) -> torch.Tensor:
    return estimator("mars")(rewards, mask, index=uids, config={}, anchor_scores=anchors)[0]


def make_batch(rows: int, tokens: int) -> Batch:
    draw = torch.Generator().manual_seed(0)
    rewards = torch.zeros(rows, tokens)
    rewards[:, -1] = torch.randint(0, 2, (rows,), generator=draw).float()
    groups = torch.arange(rows) // GROUP
    order = torch.randperm(rows, generator=draw)
    anchors = torch.rand(int(groups[-1]) + 1, ANCHORS, generator=draw)[groups]
    uids = np.array([f"uid-{group}" for group in groups.tolist()], dtype=object)
    return rewards[order], torch.ones(rows, tokens), uids[order.numpy()], anchors[order]


def milliseconds(function: Callable[..., object], batch: Batch, repeats: int) -> dict[str, float]:
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        function(*batch)
        times.append(1000 * (time.perf_counter() - start))
    times = times[1:]  # the first one does not count
    return {"median_ms": statistics.median(times), "min_ms": min(times), "max_ms": max(times)}


def table(result: FieldDict) -> str:
    rows = []
    for size in result["estimator"]:
        loop, fast = size["loop"], size["mars"]
        times = [f"{t['median_ms']:.1f} ({t['min_ms']:.1f}-{t['max_ms']:.1f})" for t in (loop, fast)]
        faster = f"{loop['median_ms'] / fast['median_ms']:.0f} x"
        rows.append([f"{size['rows']:,} x {size['tokens']:,}", *times, faster])
    head = ["rows x tokens", "loop over groups, ms", "`mars`, ms", "faster"]
    return f"{report.where(result)} {result['threads']} threads.\n\n{report.markdown(head, rows)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=11)
    repeats = parser.parse_args().repeats
    result: FieldDict = report.about("torch", "numpy") | {"threads": torch.get_num_threads(), "estimator": []}
    for rows, tokens in SIZES:
        batch = make_batch(rows, tokens)
        torch.testing.assert_close(ours(*batch), by_groups(*batch), atol=1e-5, rtol=1e-5)
        loop, fast = milliseconds(by_groups, batch, repeats), milliseconds(ours, batch, repeats)
        result["estimator"].append({"rows": rows, "tokens": tokens, "loop": loop, "mars": fast})
    report.publish("estimator", result, table(result))


if __name__ == "__main__":
    main()
