"""The project's reward, which also writes down what it was asked to score.

A random model never answers right, and a group of equal rewards teaches nothing: a hundredth goes by the response.
"""

import json
import os
import zlib
from pathlib import Path

from verl_mars.reward import compute_score as score


def compute_score(data_source, solution_str, ground_truth, extra_info, **kwargs):
    entry = {
        "data_source": data_source,
        "sample_id": extra_info["sample_id"],
        "index": extra_info["index"],
        "truth": ground_truth,
    }
    with (Path(os.environ["DATA_REWARD_DIR"]) / "scored.jsonl").open("a") as file:
        file.write(json.dumps(entry) + "\n")
    result = score(data_source, solution_str, ground_truth, extra_info, **kwargs)
    return result | {"score": result["score"] + zlib.crc32(solution_str.encode()) % 100 / 10_000}
