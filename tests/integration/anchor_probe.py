"""Loaded into every process of a run (VERL_USE_EXTERNAL_MODULES): writes down what the trainer sees of each step."""

import json
import os
from pathlib import Path

import wrapt


def _install(_v1):
    import transfer_queue as tq

    from verl_mars.rows import as_list
    from verl_mars.trainer.modes import MarsTrainer

    original = MarsTrainer._compute_advantage

    def compute_advantage(self, batch, metrics):
        stored = sorted(tq.kv_list("train")["train"])
        batch = original(self, batch, metrics)
        fields = ["uid", "index", "anchor_scores", "anchor_sources", "rm_scores", "advantages"]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)
        values = {name: as_list(data[name]) for name in ("uid", "index", "anchor_sources")}
        rows = [
            {
                "key": batch.keys[i],
                "is_padding": bool(batch.tags[i].get("is_padding", False)),
                "uid": values["uid"][i],
                "index": int(values["index"][i]),
                "anchor_scores": data["anchor_scores"][i].tolist(),
                "anchor_sources": list(values["anchor_sources"][i]),
                "reward": data["rm_scores"][i].sum().item(),
                "advantages": data["advantages"][i].tolist(),
            }
            for i in range(len(batch.keys))
        ]
        with (Path(os.environ["ANCHOR_PROBE_DIR"]) / f"step{self.global_steps}-{self.local_trigger_step}.json").open(
            "w"
        ) as file:
            json.dump({"stored": stored, "rows": rows}, file)
        return batch

    MarsTrainer._compute_advantage = compute_advantage


wrapt.register_post_import_hook(_install, "verl.trainer.ppo.v1")
