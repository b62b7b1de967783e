"""A reward that gives each mono session the number that its ground truth names; or fails, hangs or kills, as told."""

import json
import os
import signal
import time
import zlib
from pathlib import Path


def compute_score(data_source, solution_str, ground_truth, extra_info=None, **_):
    truth = json.loads(ground_truth)["answers"][0]
    with (Path(os.environ["ANCHOR_PROBE_DIR"]) / "scored.jsonl").open("a") as file:
        file.write(json.dumps({"truth": truth, "split": extra_info["split"]}) + "\n")
    kind, _, value = truth.partition(" ")
    if value == "fail":
        raise RuntimeError("this mono session fails on purpose")
    if value == "hang":
        time.sleep(3600)
    if value == "kill":
        time.sleep(10)  # the other sessions are scored by then, so that it is known what dies with this process
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "anchor":
        return float(value)
    return 0.5 if "ANCHOR_SAME_REWARD" in os.environ else zlib.crc32(solution_str.encode()) % 7 / 7
