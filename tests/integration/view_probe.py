"""Loaded into every process of a run (VERL_USE_EXTERNAL_MODULES): writes down what scoring a view made of each step."""

import json
import os
from pathlib import Path

import wrapt

FIELDS = ["prompts", "responses", "response_mask", "position_ids", "old_log_probs", "view_log_probs", "entropy"]
FIELDS += ["advantages"]


def _install(_v1):
    import transfer_queue as tq

    from verl_mars.rows import NOISY, OTHER_VISUAL_INPUTS, as_list
    from verl_mars.trainer.modes import MarsTrainerSync

    original = MarsTrainerSync._compute_advantage

    def compute_advantage(self, batch, metrics):
        batch = original(self, batch, metrics)
        noisy = [NOISY, OTHER_VISUAL_INPUTS] if self.config.algorithm.adv_estimator == "vogue" else []
        exact = ["view_divergence", "view_reverse_divergence"] if self.method.exact else []
        data = tq.kv_batch_get(
            keys=batch.keys,
            partition_id=batch.partition_id,
            select_fields=[*FIELDS, "uid", "index", "rm_scores", *noisy, *exact],
        )
        columns = {name: [row.tolist() for row in data[name].unbind()] for name in [*FIELDS, *exact]}
        columns["uid"] = as_list(data["uid"])
        columns["index"] = [int(index) for index in as_list(data["index"])]
        columns["reward"] = [row.sum().item() for row in data["rm_scores"].unbind()]
        if noisy:
            columns["noisy"] = as_list(data[NOISY])
            columns["pixels_left"] = [len(inputs) for inputs in as_list(data[OTHER_VISUAL_INPUTS])]
        columns["is_padding"] = [bool(tag.get("is_padding", False)) for tag in batch.tags]
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        left = sorted(tq.kv_list("mars_views").get("mars_views", {}))
        with (Path(os.environ["VIEW_PROBE_DIR"]) / f"step{self.global_steps}.json").open("w") as file:
            json.dump({"rows": rows, "left": left}, file)
        return batch

    MarsTrainerSync._compute_advantage = compute_advantage


wrapt.register_post_import_hook(_install, "verl.trainer.ppo.v1")
